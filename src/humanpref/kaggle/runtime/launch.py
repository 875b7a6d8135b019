"""Train in separate processes, one per GPU, within the kernel's time limit."""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from humanpref.config import Config, from_dict
from humanpref.config.neural import LoopOptions
from humanpref.runs import train as runs
from humanpref.training import device

logger = logging.getLogger(__name__)

FAILED = "training failed: "
"""Prefix of the line in which a training process reports why it failed."""
GRACE_SECONDS = 60
"""How long processes have to exit before they are killed."""


def train(config: Config, train_csv: Path, out: Path, folds: int | None, seconds: float) -> None:
    """Train until training is done or time runs out; all work finished by then is kept.

    Parameters
    ----------
    config, train_csv, out, folds
        As for `humanpref.runs.train.train`.
    seconds : float
        Wall-clock limit.

    Raises
    ------
    RuntimeError
        If the training fails; the message is the training's own if it printed one. A training that
        left an artifact has not failed.
    """
    device.expand_segments()
    order = {
        "config": config.to_dict(),
        "train_csv": str(train_csv),
        "out": str(out),
        "folds": folds,
    }
    command = [*_launcher(processes(config)), "humanpref.kaggle.runtime.launch", json.dumps(order)]
    before = out.exists()
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    late = threading.Event()
    # accelerate's processes are in separate sessions: it ends them on SIGTERM, but not when it is
    # itself killed.
    timers = [
        threading.Timer(max(0.0, seconds), lambda: (late.set(), _signal(child, signal.SIGTERM))),
        threading.Timer(max(0.0, seconds) + GRACE_SECONDS, lambda: _signal(child, signal.SIGKILL)),
    ]
    for timer in timers:
        timer.start()
    reason = ""
    try:
        for line in child.stdout:
            print(line, end="", flush=True)
            reason = line.partition(FAILED)[2].strip() or reason
        code = child.wait()
    finally:
        for timer in timers:
            timer.cancel()
        _signal(child, signal.SIGTERM)
    if code == 0 or late.is_set():
        return
    name = f" ({signal.Signals(-code).name}; out of memory?)" if code < 0 else ""
    ended = f"the training process ended with {code}{name}"
    # The artifact is written atomically as the last step of a training, so the failure came after.
    if out.is_dir() and not before:
        logger.warning("%s, after the artifact was written", ended)
        return
    raise RuntimeError(reason or ended)


def processes(config: Config) -> int:
    """Return the number of training processes: one per GPU for a family trained by gradient
    descent, otherwise one."""
    return max(1, device.gpus()) if isinstance(config.training, LoopOptions) else 1


def peak_memory_bytes() -> int:
    """Return the peak memory of any single process so far: this one, or one that it started."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return 1024 * max(resource.getrusage(kind).ru_maxrss for kind in kinds)


def _launcher(number: int) -> list[str]:
    python = [sys.executable, "-u", "-m"]
    if number == 1:
        return python
    # accelerate warns if it has to choose these itself; the loop sets the precision. Port 0 means
    # any free port.
    chosen = ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    processes = ["--multi_gpu", f"--num_processes={number}", "--main_process_port=0"]
    return [*python, "accelerate.commands.launch", *processes, *chosen, "-m"]


def _signal(child: subprocess.Popen, number: int) -> None:
    if child.poll() is None:
        os.killpg(child.pid, number)


def main(order: dict[str, Any]) -> int:
    """Run one training process, and return its exit code."""
    main_one = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(
        level=logging.INFO if main_one else logging.WARNING, format="%(message)s", stream=sys.stdout
    )
    try:
        config = from_dict(order["config"], "the kernel's configuration")
        runs.train(config, order["train_csv"], order["out"], folds=order["folds"])
        device.leave_group()
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        print(f"{FAILED}{type(error).__name__}: {error}".replace("\n", " "), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
