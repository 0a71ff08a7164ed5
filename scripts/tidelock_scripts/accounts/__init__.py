"""A bank whose accounts are in two databases: what AT must keep whole."""
