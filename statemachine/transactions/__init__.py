"""Global transactions and their branches: what they are, what may become of them, who is next."""
