"""The options and the results of a check, and helpers for its device, data and models."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import patch_environment

from humanpref.arena import make_arena
from humanpref.config import Config, load_config
from humanpref.data import as_pairs, labels_of
from humanpref.models import Model, build_model
from humanpref.schema import TEXT_COLUMNS
from humanpref.training.precision import DTYPES, has_bf16, process_state, resolve


@dataclass(frozen=True)
class Row:
    """A result of a check, as one row of the table.

    Attributes
    ----------
    check, case : str
        The name of the check, and the model or setting that it measured.
    measured, expected : str
        The measured values, and the values that pass, as text.
    passed : bool or None
        Whether the check passed; None if it was not judged.
    """

    check: str
    case: str
    measured: str
    expected: str
    passed: bool | None


@dataclass(frozen=True)
class Setting:
    """The options of all checks.

    Attributes
    ----------
    quick : bool
        Whether to use tiny models, which only test the code of the checks. Times and memory are
        then not judged.
    weights : tuple of Path
        Folders of pretrained backbones, for the checks of precision.
    """

    quick: bool = False
    weights: tuple[Path, ...] = ()

    @property
    def judged(self) -> bool:
        """Whether times and memory are judged; this needs a GPU and models in full size."""
        return not self.quick and device().type == "cuda"


def device() -> torch.device:
    """Return this process's device."""
    return process_state().device


def synchronize() -> None:
    """Wait until the device has done all of its work."""
    if device().type == "cuda":
        torch.cuda.synchronize()


def autocast() -> contextlib.AbstractContextManager:
    """Return the autocast context that the training loop uses by default on this device."""
    half = DTYPES.get(resolve("auto", device()))
    return torch.autocast(device().type, half) if half else contextlib.nullcontext()


def precisions() -> list[str]:
    """Return the half precisions in which the device computes."""
    if device().type == "cpu":
        return ["bf16"]
    return ["fp16", "bf16"] if has_bf16(device()) else ["fp16"]


@contextlib.contextmanager
def on_the_cpu() -> Iterator[None]:
    """Make models in the block compute on the CPU, in float32."""
    try:
        with patch_environment(accelerate_use_cpu="true"):
            AcceleratorState._reset_state(reset_partial_state=True)
            yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yield a temporary folder, which is deleted after the block."""
    with tempfile.TemporaryDirectory(prefix="humanpref-acceptance-") as folder:
        yield Path(folder)


def some_pairs(number: int) -> pd.DataFrame:
    """Return `number` labeled rows of the synthetic arena."""
    return as_pairs(make_arena(rows=number, seed=0).train)


def texts_of(pairs: pd.DataFrame) -> list[str]:
    """Return all texts of the rows."""
    return [text for column in TEXT_COLUMNS for turns in pairs[column] for text in turns]


SMALL = {
    "encoder": ("deberta-v3-small", "training.swap_augmentation=false"),
    "decoder": (
        "llama-3.2-1b-lora",
        "model.system_prompt=",
        "model.question=Which?",
        "training.head_learning_rate=5e-3",
    ),
    "dpo": (
        "llama-3.2-1b-dpo",
        "model.system_prompt=",
        "training.ties=davidson",
        "training.link_fraction=0",
        "training.warmup=0",
        "training.max_grad_norm=none",
    ),
}
"""A preset of each family, with settings for a few steps on a few rows."""


def small(family: str, backbone: str | Path, *overrides: str) -> Config:
    """Return a family's configuration for a short training with the given backbone."""
    preset, *settings = SMALL[family]
    shared = [
        f"model.backbone={backbone}",
        "model.max_length=128",
        "training.batch_size=4",
        "training.learning_rate=3e-3",
        "training.weight_decay=0",
    ]
    if family != "encoder":
        shared += ["model.lora_dropout=0"]
    return load_config(preset, None, [*shared, *settings, *overrides])


def fit(config: Config, pairs: pd.DataFrame, checkpoint: Path | None = None) -> Model:
    """Train a model on these rows."""
    return build_model(config).fit(pairs, labels_of(pairs), checkpoint=checkpoint)
