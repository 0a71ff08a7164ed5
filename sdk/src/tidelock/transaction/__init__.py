"""Global transactions, as applications begin, join and end them."""
