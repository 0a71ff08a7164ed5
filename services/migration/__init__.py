"""DATA_MIGRATION: the structure of a table, its rows by batches, and whether all have arrived."""
