"""AT: the database keeps images of the rows before and after, and what was done is undone by them.

`resource` is a database in this mode; `phase_one` what happens around an application's statements
and its commit, with `images`, `inserts` and `checks`; `undo_records` and `undo_log` what is kept
until the end; `phase_two` what becomes of it; `units` runs local work again when rows were locked.
"""
