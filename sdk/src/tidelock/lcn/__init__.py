"""LCN: the connection is held open, and its commit waits for the group's decision.

`source` is a database in this mode; `held` a local transaction that waits, with who works in it;
`part` what a unit has done in one; `phase_two` how it ends when the coordinator says so, when
nobody says anything, and when the process's session is lost.
"""
