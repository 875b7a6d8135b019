"""Tiny models of each neural family, on the played GPU or on the CPU."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from humanpref.config import Config, load_config
from humanpref.data import labels_of
from humanpref.models import Model, build_model

LOOP = ("training.batch_size=4", "training.learning_rate=1e-2", "training.weight_decay=0")
DECODER = (*LOOP, "model.max_length=80", "model.system_prompt=", "model.lora_dropout=0")
SETTINGS = {
    "encoder": (
        "tiny",
        *LOOP,
        "training.swap_augmentation=false",
        "model.max_length=32",
        "model.scratch_hidden_size=16",
        "model.scratch_vocabulary=300",
    ),
    "decoder": (
        "llama-3.2-1b-lora",
        *DECODER,
        "model.question=Which?",
        "training.head_learning_rate=15e-3",
    ),
    "dpo": ("llama-3.2-1b-dpo", *DECODER, "training.link_fraction=0", "training.warmup=0"),
}
"""A preset and overrides by family. Texts are cut to one length, so that batches are all alike."""
FAMILIES = tuple(SETTINGS)


def tiny(family: str, backbone: str | Path, *overrides: str) -> Config:
    preset, *settings = SETTINGS[family]
    return load_config(preset, overrides=[*settings, f"model.backbone={backbone}", *overrides])


def fit(config: Config, pairs: pd.DataFrame, **options: Any) -> Model:
    return build_model(config).fit(pairs, labels_of(pairs), **options)


def untrained(config: Config, pairs: pd.DataFrame) -> nn.Module:
    """Build the module as `fit` has it before the first step."""
    model = build_model(config)
    torch.manual_seed(config.seed)
    model.build(pairs)
    return model.module_


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().cpu() for name, weight in module.named_parameters()}


@contextlib.contextmanager
def on_the_cpu() -> Iterator[None]:
    """Compute on the CPU, in float32."""
    with mock.patch.dict(os.environ, ACCELERATE_USE_CPU="true"):
        AcceleratorState._reset_state(reset_partial_state=True)
        yield
    AcceleratorState._reset_state(reset_partial_state=True)


def slow_but(value: Any, *fast: Any) -> Any:
    """Mark the value's test as slow unless it is one of the fast ones."""
    return pytest.param(value, marks=[] if value in fast else [pytest.mark.slow])
