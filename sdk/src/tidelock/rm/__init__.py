"""Resource managers: the branches of this process, and what the coordinator has done with them."""
