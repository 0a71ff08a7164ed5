"""What stands behind `scripts/cluster`, `quickstart`, `bench` and `chaos`.

The files in `scripts/` only set up the environment and run a module of this package.
"""
