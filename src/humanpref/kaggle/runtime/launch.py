"""Train in separate processes within the kernel's time limit: several models with one GPU each, or
a single model on all GPUs."""

import json
import logging
import math
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from humanpref.config import Config, from_dict
from humanpref.config.neural import AdaptedOptions, LoopOptions
from humanpref.runs.estimate import useful_gpus
from humanpref.runs.results import FoldModel
from humanpref.runs.train import Run
from humanpref.training import device

logger = logging.getLogger(__name__)

FAILED = "training failed: "
"""Prefix of the line in which a training process reports why it failed."""
ROOT_CAUSE = "Root Cause (first observed failure)"
"""The line after which torch's launcher describes the process that failed first."""
GRACE_SECONDS = 60
"""Seconds that processes have to exit after time runs out, before they are killed."""


def train(run: Run, seconds: float, descent_seconds: float) -> None:
    """Train a run's models until all are trained or time runs out. Write the artifact if all are
    trained; in any case, keep the finished models.

    A single model is trained by one process, or by several together. Several models are trained by
    one process each, on all available GPUs; when a GPU has finished a model, it takes the next. If
    a process fails, no further models are started, but the other processes finish their models.

    Parameters
    ----------
    run : Run
        The run. Each process plans the run again from the training file alone, so the run must have
        no extra rows, teachers or earlier stage.
    seconds : float
        Wall-clock limit.
    descent_seconds : float
        Seconds for gradient descent, divided equally among the models that one GPU trains. If the
        configuration sets a limit for each model, that limit applies instead.

    Raises
    ------
    InputError
        If the artifact's folder cannot be used.
    RuntimeError
        If a process fails; the message contains the reason that the process printed, if any. A
        failure after the process has written its model is ignored.
    """
    device.prepare()
    until = time.monotonic() + seconds
    gpus, number = [""], processes(run.config)
    if len(run.models) > 1:
        gpus, number = places(run.config), 1
    share = math.ceil(len(run.models) / len(gpus))  # the models that one GPU has to train
    config = with_limit(run.config, descent_seconds / share)
    with run.opened():
        if models := run.unfinished():
            hash_base(config)
            crew = _Crew(run, config, number, gpus)
            if reasons := crew.train(models, until - time.monotonic()):
                raise RuntimeError("; ".join(reasons))
        if all((run.work / model.name).is_dir() for model in models):
            run.finish()


def processes(config: Config) -> int:
    """Return the number of processes that train a single model together: one per GPU for a family
    trained by gradient descent, unless a single process is faster; otherwise one."""
    descends = isinstance(config.training, LoopOptions)
    return useful_gpus(config, max(1, device.gpus())) if descends else 1


def places(config: Config) -> list[str]:
    """Return a value of `CUDA_VISIBLE_DEVICES` for each model that is trained at the same time.

    These are the names of the GPUs if there are several and the family is trained by gradient
    descent. Otherwise, one model is trained at a time: the only value is "", for which the
    variable is left unchanged.
    """
    descends = isinstance(config.training, LoopOptions)
    return device.names(device.gpus()) if descends and device.gpus() > 1 else [""]


def with_limit(config: Config, seconds: float) -> Config:
    """Return the configuration with a time limit for gradient descent. Leave it unchanged if it has
    a limit already, or if its family is not trained by gradient descent.

    The limit is not part of a run's identity, since a later version of the kernel, which resumes
    the run, may have a different number of GPUs.
    """
    training = config.training
    if not isinstance(training, LoopOptions) or training.seconds is not None:
        return config
    return replace(config, training=replace(training, seconds=seconds))


def hash_base(config: Config) -> None:
    """Compute the digest of a decoder's base once, before the processes start, since all of them
    need it and computing it takes minutes."""
    if isinstance(config.model, AdaptedOptions):
        from humanpref.models.checkpoint import base_digest
        from humanpref.models.pretrained import local_folder

        base_digest(local_folder(config.model.backbone))


class _Crew:
    """The processes that train a run's models."""

    def __init__(self, run: Run, config: Config, number: int, gpus: list[str]) -> None:
        self.run, self.config, self.number = run, config, number
        self.several = len(gpus) > 1
        self.free: SimpleQueue[str] = SimpleQueue()
        for gpu in gpus:
            self.free.put(gpu)
        self.gpus = len(gpus)
        self.started: list[subprocess.Popen] = []
        self.failed, self.late, self.stopped = (threading.Event() for _ in range(3))

    def train(self, models: list[FoldModel], seconds: float) -> list[str]:
        """Train the models, and return the reasons why processes failed."""

        def too_late() -> None:
            self.late.set()
            self._stop()

        # accelerate starts its processes in separate sessions. It ends them when it receives
        # SIGTERM, but cannot when it is killed.
        seconds = max(0.0, seconds)
        timers = [
            threading.Timer(seconds, too_late),
            threading.Timer(seconds + GRACE_SECONDS, lambda: self._signal(signal.SIGKILL)),
        ]
        for timer in timers:
            timer.start()
        with ThreadPoolExecutor(self.gpus) as pool:
            try:
                return [reason for reason in pool.map(self._train_model, models) if reason]
            finally:
                for timer in timers:
                    timer.cancel()
                self._stop()

    def _train_model(self, model: FoldModel) -> str:
        """Train a model on a free GPU. Return the reason if the training failed, otherwise ""."""
        if self.stopped.is_set() or self.failed.is_set():
            return ""
        gpu = self.free.get()
        if gpu:
            logger.info("%s: on GPU %s", model.name, gpu)
        try:
            reason, code = self._watch(model, gpu)
        finally:
            self.free.put(gpu)
        if code == 0 or self.late.is_set():
            return ""
        killed = f" ({signal.Signals(-code).name}; out of memory?)" if code < 0 else ""
        ended = f"the training process ended with {code}{killed}"
        name = f"{model.name}: " if len(self.run.models) > 1 else ""
        # Writing the model is the last step of training, and atomic, so the failure came later.
        if (self.run.work / model.name).is_dir():
            logger.warning("%s%s, after the model was written", name, ended)
            return ""
        self.failed.set()
        return f"{name}{ended if code < 0 else reason or ended}"

    def _watch(self, model: FoldModel, gpu: str) -> tuple[str, int]:
        """Run a model's process and print its output. Return the reason that it gave for failing,
        and its exit code. If several processes train the model together, return those of the first
        process that failed, since the others fail as a consequence."""
        order = {
            "config": self.config.to_dict(),
            "train_csv": str(self.run.source),
            "out": str(self.run.out),
            "folds": self.run.identity["folds"],
            "model": model.name,
            "format": self.run.format,
        }
        command = [*_launcher(self.number), "humanpref.kaggle.runtime.launch", json.dumps(order)]
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            # Set before torch is imported, so that the process sees only its own GPU.
            env=os.environ | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}),
        )
        self.started.append(child)
        if self.stopped.is_set():  # `_stop` was called while the process was being started
            _signal(child, signal.SIGTERM)
        prefix = f"{model.name}: " if self.several else ""
        reason, told, code = "", False, 0
        for line in child.stdout:
            print(f"{prefix}{line}", end="", flush=True)
            reason = reason or line.partition(FAILED)[2].strip()
            told |= ROOT_CAUSE in line
            if told and (found := re.search(r"exitcode\s*: (-?\d+)", line)):
                code, told = int(found[1]), False
        return reason, child.wait() and (code or child.returncode)

    def _stop(self) -> None:
        self.stopped.set()
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        for child in self.started:
            _signal(child, number)


def peak_memory_bytes() -> int:
    """Return the peak memory, in bytes, of this process or of any process that it started,
    whichever is higher."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return 1024 * max(resource.getrusage(kind).ru_maxrss for kind in kinds)


def _launcher(number: int) -> list[str]:
    python = [sys.executable, "-u", "-m"]
    if number == 1:
        return python
    # accelerate warns if the command leaves these values to it. The training loop sets the
    # precision itself. Port 0 means any free port.
    chosen = ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    processes = ["--multi_gpu", f"--num_processes={number}", "--main_process_port=0"]
    return [*python, "accelerate.commands.launch", *processes, *chosen, "-m"]


def _signal(child: subprocess.Popen, number: int) -> None:
    if child.poll() is None:
        with suppress(ProcessLookupError):  # it has just ended
            os.killpg(child.pid, number)


def main(order: dict[str, Any]) -> int:
    """Train one model, alone or with other processes, and return the exit code. `order` has the
    run's configuration and files, and the model's name."""
    main_one = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(
        level=logging.INFO if main_one else logging.WARNING, format="%(message)s", stream=sys.stdout
    )
    try:
        config = from_dict(order["config"], "the kernel's configuration")
        rows = order["train_csv"], order["out"], order["folds"]
        run = Run.plan(config, *rows, format=order["format"])
        (model,) = (model for model in run.models if model.name == order["model"])
        run.train_model(model)
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        print(f"{FAILED}{type(error).__name__}: {error}".replace("\n", " "), flush=True)
        return 1
    finally:
        device.leave_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
