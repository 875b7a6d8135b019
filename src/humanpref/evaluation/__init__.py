"""Evaluate probabilities against labels, whichever model produced them."""
