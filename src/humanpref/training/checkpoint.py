"""A training run's checkpoint: one file, written atomically."""

import logging
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from humanpref.schema import InputError, counted
from humanpref.storage import storage_errors

logger = logging.getLogger(__name__)


def save_checkpoint(path: Path, content: dict[str, Any], accelerator: Accelerator) -> None:
    """Write the content together with every process's random state, on which dropout depends.

    Every process must call this function; only the main one writes.
    """
    rng_states = gather_object([random_state(accelerator.device)])
    if accelerator.is_main_process:
        # The name is hidden, so that the leftovers of a killed process do not end up in an
        # artifact.
        unfinished = path.with_name(f".{path.name}.new")
        try:
            # torch's own writer reports a full disk without the system's error.
            with storage_errors(path), open(unfinished, "wb") as file:
                torch.save(content | {"rng_states": rng_states}, file)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def load_checkpoint(path: Path, steps_per_epoch: int, accelerator: Accelerator) -> dict[str, Any]:
    """Read a checkpoint written by `save_checkpoint`, and restore this process's random state.

    If it was written by a different number of processes, dropout differs from that of an
    uninterrupted run.

    Raises
    ------
    InputError
        If it was written for epochs of a different length.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content["steps_per_epoch"] != steps_per_epoch:
        raise InputError(
            f"{path}: expected a checkpoint for epochs of {counted(steps_per_epoch, 'step')}, got "
            f"{content['steps_per_epoch']}; remove the file to start over"
        )
    states = content["rng_states"]
    if len(states) != accelerator.num_processes and accelerator.is_main_process:
        written, resumed = counted(len(states), "process", "es"), accelerator.num_processes
        text = "%s: written by %s but resumed by %d, so dropout differs"
        logger.info(text, path, written, resumed)
    for state in states[accelerator.process_index : accelerator.process_index + 1]:
        set_random_state(state, accelerator.device)
    return content


def random_state(device: torch.device) -> dict[str, Tensor | None]:
    """Return this process's random state, on which dropout depends."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Tensor | None], device: torch.device) -> None:
    """Restore a state that `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
