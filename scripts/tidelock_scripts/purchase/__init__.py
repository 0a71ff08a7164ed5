"""`scripts/purchase`: the example of examples/purchase, run, disturbed and checked.

`purchases` are plans, what came of them and what must hold then; `books` the databases, `services`
the processes, `wires` what is between them, `shop` all of it with the cluster; `report` is what is
shown, `command` the arguments.
"""
