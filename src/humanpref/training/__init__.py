"""Gradient descent: the loop, the losses, batches, mixed precision, inference. Knows tensors and
rows' numbers, not texts."""
