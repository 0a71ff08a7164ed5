"""Real nodes under real faults, with clients whose history is checked."""
