"""Kaggle: metadata, the wheel dataset, the code that the kernels call, and the dry run. Only the
command line imports it."""
