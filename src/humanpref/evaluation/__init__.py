"""Judging probabilities against labels. Knows nothing of where they come from."""
