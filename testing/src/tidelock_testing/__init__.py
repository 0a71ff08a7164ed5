"""A coordinator for tests of applications. Use it through `tidelock.testing`.

This module imports nothing: pytest loads it at every start, for the fixtures.
"""
