"""Run the command line as `python -m humanpref.cli`."""

import sys

from humanpref.cli.main import main

sys.exit(main())
