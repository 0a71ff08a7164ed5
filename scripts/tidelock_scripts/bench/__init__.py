"""What a cluster does on this machine, measured beside a bare echo server in the same run."""
