"""What the tests use of DTM's client for Python."""
