"""Everything for Kaggle: metadata, the dataset of wheels, the code that the kernels call, and the
dry run. Only the command line imports this folder."""
