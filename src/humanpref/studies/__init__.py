"""Studies of several runs on the same rows: comparisons, ablations, and the list of runs."""
