"""What the project says about GPUs, checked on one: at most 8 minutes, one table.

    python benchmarks/gpu_acceptance.py [--quick] [--weights FOLDER …] [--json FILE]

The checks are `humanpref.kaggle.acceptance`, which `humanpref kaggle accept` runs on Kaggle's GPUs.
"""

import sys

from humanpref.kaggle.acceptance.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
