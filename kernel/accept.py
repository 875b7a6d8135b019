"""The acceptance kernel: install humanpref from its wheel dataset, without a network, and verify on
Kaggle's GPUs what the project claims about GPUs.

The table of results is in acceptance.md and acceptance.json in /kaggle/working. A failed check is
only reported in the table; the run ends with an error only if there is no table. `make kernels`
writes the pushed file, kernel/accept/accept.py, from kernel/accept.py and the code that the kernels
share.
"""

import json
import os
import subprocess
import sys
import traceback

from bootstrap import (
    WORKING,
    check_dataset,
    find_dataset,
    go_offline,
    install,
    manifest_digest,
    one_line,
)


def main() -> None:
    """Install, then check."""
    go_offline()
    dataset = find_dataset()
    WORKING.mkdir(parents=True, exist_ok=True)
    status = {"manifest": manifest_digest(dataset), "degraded": ["the checks have not ended"]}
    (WORKING / "status.json").write_text(json.dumps(status))
    install(check_dataset(dataset))
    table = WORKING / "acceptance.md"
    command = [sys.executable, "-u", "-m", "humanpref.kaggle.acceptance", "--table", str(table)]
    command += ["--json", str(table.with_suffix(".json"))]
    # A dry run has no GPU.
    command += ["--quick"] if os.environ.get("HUMANPREF_DRY_RUN") else []
    done = subprocess.run(command)
    if not table.is_file():
        raise RuntimeError(f"the checks ended with {done.returncode} and left no table")
    (WORKING / "status.json").write_text(json.dumps(status | {"degraded": []}))


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        traceback.print_exc()
        sys.exit(f"The acceptance kernel failed: {one_line(error)}")
