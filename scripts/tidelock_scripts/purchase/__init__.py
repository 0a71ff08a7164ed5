"""`scripts/purchase`: the example of examples/purchase, run, disturbed and checked.

`books` are the databases and what must hold in them, `services` the processes, `wires` what is
between them, `shop` all of it with the cluster, `report` what is shown, `command` the arguments.
"""
