"""Gradient descent: the loop, losses, batches, mixed precision and inference. This package handles
tensors and row indices, not texts."""
