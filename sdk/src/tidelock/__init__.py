"""Tidelock for applications."""
