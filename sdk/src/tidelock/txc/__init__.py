"""TXC: as AT, with the rows of each statement locked at the coordinator before it runs.

`source` is a database in this mode; `phase_one` what happens around its statements and the ends of
its local transactions; `part` what a unit has committed, and undoes when it fails.
"""
