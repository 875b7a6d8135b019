"""Check on a real GPU what the project says about GPUs: `python -m humanpref.kaggle.acceptance`."""
