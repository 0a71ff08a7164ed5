"""Raft: PySyncObj behind our own transport, journal and guards. See docs/adr/0002."""
