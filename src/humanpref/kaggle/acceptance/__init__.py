"""Test the project's claims about GPUs on a real GPU: `python -m humanpref.kaggle.acceptance`."""
