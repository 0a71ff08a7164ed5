"""`python -m services`: the worker of a node. Nodes start it; there is nothing to start by hand."""

from services.worker import main

if __name__ == "__main__":
    main()
