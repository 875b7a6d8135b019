"""The code that runs inside the kernels."""
