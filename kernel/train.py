"""The training kernel: installs humanpref from the wheel dataset, without a network, and trains
what its run.toml says.

The model ends in /kaggle/working/artifact, where the inference kernel finds it as a kernel source.
A failure ends the run with an error, so that Kaggle shows one. `make kernels` writes the file that
is pushed, kernel/train/train.py, from kernel/train.py and what both kernels share.
"""

import json
import logging
import sys
import time
import tomllib
import traceback

from bootstrap import (
    INPUT,
    WORKING,
    check_dataset,
    find_dataset,
    go_offline,
    install,
    manifest_digest,
)


def main() -> None:
    """Install, then train."""
    started = time.perf_counter()
    go_offline()
    dataset = find_dataset()
    WORKING.mkdir(parents=True, exist_ok=True)
    (WORKING / "status.json").write_text(json.dumps({"manifest": manifest_digest(dataset)}))
    install(check_dataset(dataset))
    run = tomllib.loads((dataset / "run.toml").read_text(encoding="utf-8"))
    from humanpref.kaggle.runtime.train import train

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    train(INPUT, WORKING, run, install_seconds=time.perf_counter() - started)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        traceback.print_exc()
        sys.exit(f"The training kernel failed: {type(error).__name__}: {error}")
