"""Runs: train artifacts on rows, and predict probabilities for rows with artifacts."""
