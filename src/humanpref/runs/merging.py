"""Merge the fold models of a LoRA artifact into one model, which predicts at the cost of one."""

import dataclasses
import math
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from humanpref.config import Config
from humanpref.files import check_new, folder_whole, read_json, write_json
from humanpref.models.base import CONFIG_FILE
from humanpref.models.neural import STATE_FILE
from humanpref.models.pretrained import BASE_FILE
from humanpref.runs.artifact import METRICS_FILE, Artifact
from humanpref.runs.artifact_files import copy_files, seal
from humanpref.runs.artifact_tables import OOF_FILE, ROWS_FILE
from humanpref.runs.train import MEMBER_FILE
from humanpref.schema import InputError, refuse_failures

MODEL = "model"
FIRST, SECOND = ".lora_A.default.weight", ".lora_B.default.weight"
"""Ends of the names of LoRA's two matrices, A (r, inputs) and B (outputs, r); an update is a
multiple of BA."""


def merge(folder: str | Path, out: str | Path) -> Artifact:
    """Write an artifact whose only model has the mean of the fold models' weight updates.

    The mean of K updates of rank r is an update of rank K r: the rows of all A and the columns of
    all B side by side, scaled by 1/K. So the adapter's updates are averaged exactly, and so are the
    weights of a linear head, or the calibrations of untrained models. The model's logits are still
    not the mean of the fold models' logits, since the layers between are not linear.

    The artifact keeps the fold models' out-of-fold predictions, so that it can be blended, and
    their metrics; both describe the fold models, as `metrics.json` says.

    Parameters
    ----------
    folder : path
        An artifact of family `decoder` or `dpo`, trained with `model.peft=lora` or `rslora`.
    out : path
        The new artifact's folder, which must not exist.

    Raises
    ------
    InputError
        If the models cannot be merged, for example because of another peft method, or if `out`
        exists.
    """
    check_new(out)
    artifact = Artifact.load(folder)
    config = _common_config(artifact)
    members = artifact.members
    with refuse_failures(f"{artifact.folder}: cannot be merged"):
        states = [load_file(member / STATE_FILE) for member in members]
        merged = merged_state(states, artifact.folder)
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
    return Artifact.load(out)


def merged_state(states: list[dict[str, np.ndarray]], source: Path) -> dict[str, np.ndarray]:
    """Concatenate the LoRA matrices of several models and average their other weights.

    Parameters
    ----------
    states : list of dict
        Each model's learned weights by name.
    source : Path
        Where the weights come from, for messages.

    Raises
    ------
    InputError
        If the models have different weights.
    """
    shapes = [{name: values.shape for name, values in state.items()} for state in states]
    if any(each != shapes[0] for each in shapes):
        raise InputError(f"{source}: its models have different weights and cannot be merged")
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
    """Return the configuration that all the models have, except for their seeds.

    Raises
    ------
    InputError
        If they have different ones, or ones that `merge` does not support.
    """
    leaves = artifact.ensemble.leaves()
    config = leaves[0].config
    if any(dataclasses.replace(leaf.config, seed=config.seed) != config for leaf in leaves):
        raise InputError(f"{artifact.folder}: its models have different options")
    if config.family not in ("decoder", "dpo"):
        raise InputError(
            f"{artifact.folder}: expected family decoder or dpo, got {config.family}; "
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
            "the mean of the weights of several layers is not the mean of what they compute"
        )
    bases = {read_json(leaf.folder / BASE_FILE)["sha256"] for leaf in leaves}
    if len(bases) > 1:
        raise InputError(f"{artifact.folder}: its models have different bases")
    return config


def _widened(config: Config, models: int) -> Config:
    """Return the configuration of the merged model: K times the rank, and the alpha with which
    LoRA's own scale, alpha / r or alpha / sqrt r, becomes 1/K of what it was."""
    options = config.model
    alpha = options.lora_alpha / (math.sqrt(models) if options.peft == "rslora" else 1)
    wider = dataclasses.replace(options, lora_r=models * options.lora_r, lora_alpha=alpha)
    return dataclasses.replace(config, model=wider)
