"""The training kernel: install humanpref from the wheel dataset, without a network, and run the
training that the dataset's run.toml describes.

The model is saved in /kaggle/working/artifact, which the inference kernel mounts. A failure ends
the run with an error, so that Kaggle shows it. `make kernels` writes the pushed file,
kernel/train/train.py, from kernel/train.py and the code that the kernels share.
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
    one_line,
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
        sys.exit(f"The training kernel failed: {one_line(error)}")
