"""Kaggle: metadata, the wheel dataset, what the kernels call, and the dry run. Nothing but the
command line imports it."""
