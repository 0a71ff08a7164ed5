"""Logical clocks as pure value types."""
