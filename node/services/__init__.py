"""Hosting the XA and JTA services: which executions this node runs, and the process that does."""
