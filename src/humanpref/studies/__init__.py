"""Several runs on the same rows: compare, ablations, the list of runs."""
