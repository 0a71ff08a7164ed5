"""What the leader does outside of the cluster: calling the branches of global transactions."""
