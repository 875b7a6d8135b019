"""Evaluate probabilities against labels, regardless of the model that produced them."""
