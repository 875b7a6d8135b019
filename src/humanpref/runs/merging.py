"""Merge the fold models of a LoRA artifact into one model, which predicts at the cost of a single
fold model, or merge decoders' adapters into their bases."""

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from humanpref.config import Config
from humanpref.files import check_new, folder_whole, read_json, write_json
from humanpref.models.base import CONFIG_FILE
from humanpref.models.bases import BASE_FILE
from humanpref.models.decoder import DecoderModel
from humanpref.models.frozen_base import FrozenBase
from humanpref.models.neural import STATE_FILE
from humanpref.runs.artifact import METRICS_FILE, Artifact
from humanpref.runs.artifact_files import copy_files, seal
from humanpref.runs.artifact_tables import OOF_FILE, ROWS_FILE
from humanpref.runs.ensemble import Leaf
from humanpref.runs.train import MEMBER_FILE
from humanpref.schema import InputError, refuse_failures

MODEL = "model"
FIRST, SECOND = ".lora_A.default.weight", ".lora_B.default.weight"
"""Ends of the names of LoRA's two matrices, A (r, inputs) and B (outputs, r). LoRA adds a multiple
of the product B A to a weight matrix."""


def merge(folder: str | Path, out: str | Path, into_base: bool = False) -> Artifact:
    """Write an artifact whose only model has the mean of the fold models' weight updates.

    LoRA's update of a weight matrix is a product B A of rank r. The mean of K updates is a product
    of rank K r: stack the rows of all A and the columns of all B, and divide by K. So updates are
    averaged exactly. The weights of a linear head, or the calibrations of untrained models, are
    averaged as well. The merged model's logits are still not the mean of the fold models' logits,
    since the layers in between are not linear.

    The artifact keeps the fold models' out-of-fold predictions, so that it can be blended, and
    their metrics; both describe the fold models, as `metrics.json` says.

    Parameters
    ----------
    folder : path
        An artifact of family `decoder` or `dpo`, trained with `model.peft=lora` or `rslora`.
    out : path
        The new artifact's folder, which must not exist.
    into_base : bool
        Merge the adapter into a copy of the base, in float32. The model's folder contains this
        copy, and its options say `model.peft=head`, since nothing adapts the new base. If the head
        is `tokens`, they also say `training.epochs=0`, since nothing is left to train.

    Raises
    ------
    InputError
        If the models cannot be merged, for example because of another peft method, or if `out`
        exists. With `into_base`, also if the base is quantized, or needed as DPO's reference.
    """
    check_new(out)
    artifact = Artifact.load(folder)
    config = _common_config(artifact)
    if into_base:
        check_base_can_change(artifact.folder, config)
    members = artifact.members
    with refuse_failures(f"{artifact.folder}: cannot be merged"):
        states = [load_file(member / STATE_FILE) for member in members]
        merged = merged_state(states)
    metrics = artifact.metrics
    metrics["held_out"] = f"{metrics.get('held_out', 'nothing')}, of the models before merging"
    facts = artifact.facts | {"members": [MODEL], "merged": len(members)}
    with folder_whole(out) as unfinished:
        artifact.copy(unfinished / MODEL, members[0].name)
        for name in (OOF_FILE, MEMBER_FILE):
            (unfinished / MODEL / name).unlink(missing_ok=True)
        save_file(merged, unfinished / MODEL / STATE_FILE)
        write_json(unfinished / MODEL / CONFIG_FILE, _widened(config, len(members)).to_dict())
        tables = [name for name in (OOF_FILE, ROWS_FILE) if name in artifact.files]
        copy_files(artifact.folder, unfinished, [artifact.checked(name).name for name in tables])
        write_json(unfinished / METRICS_FILE, metrics)
        seal(unfinished, facts)
        if into_base:
            facts["backbone"] = _merge_into_base(Artifact.load(unfinished))
            seal(unfinished, facts)
    return Artifact.load(out)


def check_base_can_change(source: Path, config: Config) -> None:
    """Raise InputError if a model's adapter cannot be merged into its base."""
    if config.family == "dpo":
        raise InputError(
            f"{source}: expected family decoder, got dpo, whose rewards compare the adapted model "
            "with its base; the adapter cannot be merged into it"
        )
    if config.model.quantisation != "none":
        raise InputError(
            f"{source}: option model.quantisation: expected none, got {config.model.quantisation}; "
            "an adapter cannot be merged into a quantized base"
        )


def decoder_in_float32(leaf: Leaf) -> DecoderModel:
    """Load a decoder with its base in float32, regardless of the type in `model.base_dtype`."""
    options = dataclasses.replace(leaf.config.model, base_dtype="float32")
    model = DecoderModel.from_config(dataclasses.replace(leaf.config, model=options))
    model.load_state(leaf.folder)
    return model


def _merge_into_base(artifact: Artifact) -> dict[str, Any]:
    """Replace the adapter of a merged artifact with a base that contains it, and return the facts
    about that base."""
    leaf = artifact.ensemble
    model = decoder_in_float32(leaf)
    config, name = model.config, f"{Path(model.base_.record['name']).name}-merged"
    base = model.merge_adapter().requires_grad_(False)
    shutil.rmtree(leaf.folder)
    base.save_pretrained(leaf.folder / name)
    model.tokenizer_.save_pretrained(leaf.folder / name)
    opened = FrozenBase.open(str(leaf.folder / name))
    model.base_ = opened._replace(record=opened.record | {"name": name})
    epochs = 0 if config.model.head == "tokens" else config.training.epochs
    model.set_params(
        model=dataclasses.replace(config.model, backbone=name, peft="head"),
        training=dataclasses.replace(config.training, epochs=epochs),
    )
    model.save(leaf.folder)
    return model.backbone_facts()


def merged_state(states: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Concatenate the LoRA matrices of several models and average their other weights. Each model
    is a dict of its weights by name."""
    merged = {}
    for name, values in states[0].items():
        stack = [state[name] for state in states]
        if name.endswith(FIRST):
            merged[name] = np.concatenate(stack, axis=0)
        elif name.endswith(SECOND):
            merged[name] = np.concatenate(stack, axis=1)
        else:
            merged[name] = np.mean(stack, axis=0, dtype=np.float64).astype(values.dtype)
    return merged


def _common_config(artifact: Artifact) -> Config:
    """Return the configuration that all the models of a run have, except for their seeds.

    Raises
    ------
    InputError
        If `merge` does not support it.
    """
    leaves = artifact.ensemble.leaves()
    config, family = leaves[0].config, artifact.facts["family"]
    if family not in ("decoder", "dpo"):
        raise InputError(
            f"{artifact.folder}: expected family decoder or dpo, got {family}; "
            "only LoRA's updates can be merged"
        )
    if config.model.peft not in ("lora", "rslora"):
        raise InputError(
            f"{artifact.folder}: option model.peft: expected lora or rslora, got "
            f"{config.model.peft}; only their updates can be averaged exactly"
        )
    if getattr(config.model, "head", "linear") == "mlp":
        raise InputError(
            f"{artifact.folder}: option model.head: expected linear or tokens, got mlp; "
            "averaging the weights of several layers does not average their outputs"
        )
    # If the base was exchanged while a run was interrupted, the run's models have different bases.
    if len({read_json(leaf.folder / BASE_FILE)["sha256"] for leaf in leaves}) > 1:
        raise InputError(
            f"{artifact.folder}: its models have different bases, so they cannot be merged"
        )
    return config


def _widened(config: Config, models: int) -> Config:
    """Return the configuration of a model merged from K models. Its rank is K times as large, and
    its alpha is such that LoRA's scale (alpha / r, or alpha / sqrt r) is divided by K."""
    options = config.model
    alpha = options.lora_alpha / (math.sqrt(models) if options.peft == "rslora" else 1)
    wider = dataclasses.replace(options, lora_r=models * options.lora_r, lora_alpha=alpha)
    return dataclasses.replace(config, model=wider)
