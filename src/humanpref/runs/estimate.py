"""Before a run starts, estimate what it takes on Kaggle: the memory of a T4, the hours of training
and the hours of inference.

The hours come from a roofline (`humanpref.training.roofline`) and the rows' lengths in tokens.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from humanpref.config import Config
from humanpref.config.gpu import needs_gpu
from humanpref.config.neural import LORA, AdaptedOptions, LoopOptions
from humanpref.runs.artifact import Artifact
from humanpref.runs.demand import SLOWER, Estimate
from humanpref.runs.frozen import embedding_hours, embedding_memory, frozen_models, windows_of
from humanpref.runs.lengths import Lengths, assumed_lengths, per_row, sequence_lengths
from humanpref.schema import InputError
from humanpref.training.batching import micro_batches, shuffled_windows, token_batches
from humanpref.training.memory import MemoryEstimate, advice
from humanpref.training.roofline import T4, Device, Passes, step_seconds
from humanpref.training.shapes import Shape

ROWS, TEST_ROWS = 57_477, 25_000
"""Rows of the competition's training file and of its hidden test file."""
DECIDED = 0.7
"""Share of the competition's rows that are not ties."""
SCORED = 0.8
"""Share of a sequence's tokens that belong to the response, in the competition's rows. DPO scores
the vocabulary only for these tokens."""
SAMPLE = 4_000
"""Maximum number of rows whose batches are simulated; the time is scaled to all rows."""
CHUNK = 1_024
"""Number of token positions that DPO scores at once (`humanpref.models.dpo`)."""
BACKBONE_TOKENS = 16_384
"""Maximum number of tokens that a backbone reads at once in inference
(`humanpref.models.hidden`)."""


def estimate(
    config: Config,
    name: str,
    lengths: Lengths | None = None,
    rows: int = ROWS,
    test_rows: int = TEST_ROWS,
    folds: int | None = None,
    trains: bool = True,
    device: Device = T4,
) -> Estimate | None:
    """Estimate a run of one model, or of its fold models and seeds.

    Parameters
    ----------
    config : Config
    name : str
        The run's name in the report.
    lengths : Lengths, optional
        The rows' lengths in tokens; by default, those of a public sample.
    rows, test_rows : int
        Numbers of rows to train on and to predict.
    folds : int, optional
        Number of fold models.
    trains : bool
        Whether the run trains the model, rather than only predicting with it.
    device : Device
        The speed of the GPUs.

    Returns
    -------
    Estimate or None
        None if the run has no pretrained model and therefore needs no GPU.

    Raises
    ------
    InputError
        If the sizes of a backbone are unknown, or if a blend trains a network.
    """
    lengths, descends = lengths or assumed_lengths(), needs_gpu(config)
    facts = {"name": name, "assumptions": _assumptions(lengths, rows, test_rows, device)}
    if not descends and (frozen := frozen_models(config)):
        models = (folds or 1) * config.training.seeds
        found = [
            _embedding(model, facts, lengths, (rows, test_rows), models, trains, device)
            for model in frozen
        ]
        return _together(found)
    if not descends:
        return None
    if not isinstance(config.training, LoopOptions):
        raise InputError("option model.members: cannot estimate a blend that trains a network")
    shape, training = shape_of(config.model.backbone), config.training
    rng = np.random.default_rng(0)
    learned = sequence_lengths(config, _sampled(lengths.train, rows, rng))
    read = sequence_lengths(config, _sampled(lengths.test, test_rows, rng))
    models = (folds or 1) * training.seeds
    one_order = models * _predict_hours(config, shape, read, test_rows, device)
    doubled = per_row(config) == 1
    facts["predict"] = (one_order, one_order * (1 + doubled))
    if not trains:
        return Estimate(**facts)
    # The longest row of a sample may not be the longest of all rows.
    known = len(lengths.train) >= rows
    memory = memory_of(config, shape, int(learned.max()) if known else config.model.max_length)
    share = 1 - (1 / folds if folds else training.validation_fraction)
    epoch = {
        gpus: _epoch_hours(config, shape, learned, rows * share, device, gpus) for gpus in (1, 2)
    }
    held = _predict_hours(config, shape, learned, rows * (1 - share), device, gpus=1)
    held *= 1 + (config.inference.swap_average if doubled else 0)
    if models > 1:
        # If there are several models, each GPU trains a different one.
        epoch = {1: models * epoch[1], 2: models * epoch[1] / 2}
    hours = {gpus: each + models * held / gpus for gpus, each in epoch.items()}
    return Estimate(
        gib=memory.total(),
        least_gib=replace(memory, sequences=memory.sequences_per_row).total(),
        changes=advice(memory),
        train=hours,
        **facts,
    )


def _assumptions(lengths: Lengths, rows: int, test_rows: int, device: Device) -> list[str]:
    return [
        f"{lengths.source}; {rows:,} training and {test_rows:,} test rows",
        f"a T4 that reaches {device.flops / 1e12:.0f} TFLOP/s and "
        f"{device.bandwidth / 1e9:.0f} GB/s, {1e6 * device.kernel:.0f} µs for each kernel; a "
        f"real run takes 1 to {SLOWER} times as long",
    ]


def _embedding(
    config: Config,
    facts: dict[str, Any],
    lengths: Lengths,
    rows: tuple[int, int],
    models: int,
    trains: bool,
    device: Device,
) -> Estimate:
    """Estimate models of family `embedding`. Each model is trained in one process and later
    predicts in another. Either process embeds all of its rows, including held-out rows. Training
    uses one GPU."""
    windows, rng = windows_of(config.model), np.random.default_rng(0)
    shape = shape_of(windows.folder)
    learned, read = (
        models * embedding_hours(config, shape, windows, _sampled(texts, n, rng), n, device)
        for texts, n in zip((lengths.train, lengths.test), rows, strict=True)
    )
    own = "only embedding is counted, for which training uses one GPU; the CPU then fits the head"
    facts = facts | {"predict": (read / 2, read / 2), "assumptions": [*facts["assumptions"], own]}
    if not trains:
        return Estimate(**facts)
    memory = embedding_memory(config, shape, windows)
    least = replace(memory, sequences=1).total()
    return Estimate(gib=memory.total(), least_gib=least, train={1: learned}, **facts)


def _together(found: list[Estimate]) -> Estimate:
    """Combine the estimates of runs that follow one another: the hours add up, and the largest
    memory counts."""
    return replace(
        found[0],
        gib=max(each.gib for each in found),
        least_gib=max(each.least_gib for each in found),
        train={gpus: sum(each.train[gpus] for each in found) for gpus in found[0].train},
        predict=tuple(map(sum, zip(*(each.predict for each in found), strict=True))),
        assumptions=list(dict.fromkeys(line for each in found for line in each.assumptions)),
    )


def useful_gpus(config: Config, gpus: int) -> int:
    """Return `gpus`, or 1 if one model trains faster on a single GPU. This is the case if
    exchanging the gradients of a small step takes longer than the step."""
    try:
        found = estimate(config, "") if gpus > 1 else None
    except InputError:
        return gpus
    return 1 if found and found.train[1] < found.train.get(2, np.inf) else gpus


def shape_of(backbone: str) -> Shape:
    """Return the sizes of a backbone: those in its folder or, for a preset's backbone, the
    published ones.

    Raises
    ------
    InputError
        If it is neither a folder nor the backbone of a preset.
    """
    if Path(backbone).is_dir():
        from humanpref.models.pretrained import load_backbone_config

        return Shape.of(load_backbone_config(backbone))
    shape = Shape.published(backbone)
    if shape is None:
        raise InputError(
            f"option model.backbone: the layer sizes of {backbone} are unknown; name its folder"
        )
    return shape


def memory_of(config: Config, shape: Shape, longest: int) -> MemoryEstimate:
    """Estimate the memory of training on a T4 with sequences of at most `longest` tokens."""
    frozen, trainable, adapted = _weights(config, shape)
    per_weight = {"none": 2.0, "8bit": 1.0, "4bit": 0.5}
    return MemoryEstimate(
        shape=shape,
        frozen_bytes=shape.frozen_bytes(per_weight[config.model.quantisation]) if frozen else 0.0,
        trainable=trainable,
        length=longest,
        half=True,
        checkpointing=config.training.gradient_checkpointing,
        trained_embedding=0 if frozen else shape.embedding_weights,
        adapted=adapted,
        scored=CHUNK if config.family == "dpo" else 0,
        backward=getattr(config.model, "peft", "") != "head",
        sequences_per_row=per_row(config),
    ).batched(config.training)


def _weights(config: Config, shape: Shape) -> tuple[bool, int, int]:
    """Return whether the backbone is frozen, the number of trained weights, and a width: the total
    size per token of the inputs that a layer must keep for the gradients of its trained weights or
    adapters."""
    options = config.model
    if not isinstance(options, AdaptedOptions) or options.peft == "none":
        wide = 5 * shape.hidden + shape.attention + shape.intermediate
        return False, shape.weights, wide if shape.gated else 0
    if options.peft not in LORA:
        return True, 4 * shape.hidden * shape.layers, 2 * shape.hidden
    hidden, inner = shape.hidden, shape.intermediate
    layers = {
        "q_proj": (hidden, shape.attention),
        "k_proj": (hidden, shape.keys),
        "v_proj": (hidden, shape.keys),
        "o_proj": (shape.attention, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }
    named = [name.strip() for name in options.target_modules.split(",")]
    chosen = [size for name, size in layers.items() if name in named or "all-linear" in named]
    trained = shape.layers * options.lora_r * sum(map(sum, chosen))
    return True, trained, sum(inputs for inputs, _ in chosen)


def _passes(config: Config, shape: Shape, training: bool) -> Passes:
    frozen, _, adapted = _weights(config, shape)
    return Passes(
        shape,
        training,
        frozen=frozen,
        adapted=adapted if frozen else 0,
        checkpointing=config.training.gradient_checkpointing,
        quantized=getattr(config.model, "quantisation", "none") != "none",
        trained_embedding=shape.embedding_weights if training and not frozen else 0,
        scored=SCORED if config.family == "dpo" else 0.0,
    )


def _epoch_hours(
    config: Config, shape: Shape, lengths: np.ndarray, rows: float, device: Device, gpus: int
) -> float:
    """Return the hours of training for all epochs on `rows` rows, extrapolated from the batches of
    a sample with these lengths."""
    training, passes = config.training, _passes(config, shape, training=True)
    if not training.epochs:  # to calibrate an untrained model, rows are read in both orders
        return 2 * _predict_hours(config, shape, lengths, rows, device, gpus)
    _, trainable, _ = _weights(config, shape)
    longest, sequences = lengths.max(axis=1), lengths.shape[1]
    size, limits = training.batch_size, (training.batch_size, training.forward_tokens)
    hours = 0.0
    for window in shuffled_windows(len(lengths), size * training.accumulation, 0, 0):
        shares = micro_batches(window, sequences * longest, *limits, processes=gpus)
        seconds = step_seconds(trainable, gpus, device) + max(
            sum(passes.seconds(sequences * len(one), longest[one].max(), device) for one in share)
            for share in shares
        )
        hours += training.epochs * seconds / 3600 / len(lengths) * rows
    if config.family == "dpo":
        # Before the first step, the reference model reads the rows once.
        hours += _predict_hours(config, shape, lengths, rows, device, gpus, references=0)
        return hours * (DECIDED if training.ties == "drop" else 1) * (1 - training.link_fraction)
    return hours * (2 if getattr(training, "swap_augmentation", False) and sequences == 1 else 1)


def _predict_hours(
    config: Config,
    shape: Shape,
    lengths: np.ndarray,
    rows: float,
    device: Device,
    gpus: int = 2,
    references: int = 1,
) -> float:
    """Return the hours of reading `rows` rows in one order on `gpus` GPUs."""
    passes, flat = _passes(config, shape, training=False), lengths.ravel()
    tokens = min(config.inference.batch_tokens, BACKBONE_TOKENS)
    total = sum(
        passes.seconds(len(batch), int(flat[batch].max()), device)
        for batch in token_batches(flat, tokens)
    )
    reads = 1 + references * (config.family == "dpo")
    return total * reads / len(lengths) * rows / gpus / 3600


def _sampled(texts: np.ndarray, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `rows` rows, but at most `SAMPLE`, with replacement. If `texts` has exactly that many
    rows, return all of them instead."""
    if len(texts) == rows <= SAMPLE:
        return texts
    return texts[rng.integers(len(texts), size=min(rows, SAMPLE))]


def estimate_artifact(
    folder: Path, name: str, lengths: Lengths | None = None, test_rows: int = TEST_ROWS
) -> Estimate | None:
    """Estimate the inference of all models of a trained artifact. Return None if none of them is
    pretrained.

    Raises
    ------
    InputError
        If the folder is not an artifact, or the sizes of a backbone are unknown.
    """
    from humanpref.models.neural import BACKBONE_FOLDER

    found = []
    for leaf in Artifact.load(folder).ensemble.leaves():
        if leaf.needs_gpu or leaf.config.family == "embedding":
            own = leaf.folder / BACKBONE_FOLDER
            backbone = str(own) if own.is_dir() else leaf.config.model.backbone
            config = replace(leaf.config, model=replace(leaf.config.model, backbone=backbone))
            # A leaf is one model, even if its run trained several seeds.
            config = replace(config, training=replace(config.training, seeds=1))
            found += [estimate(config, name, lengths, test_rows=test_rows, trains=False)]
    return _together(found) if found else None
