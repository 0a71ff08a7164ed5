"""Protocols of other systems, served for their clients as they know them."""
