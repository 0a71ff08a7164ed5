"""Transactions, and clocks, across services: a module for each framework.

The server's side binds what a request brings, the client's side attaches what is bound. Nothing is
imported here, so that each module needs its own framework only. docs/sdk/PROPAGATION.md of the
repository shows them all.
"""
