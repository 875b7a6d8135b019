"""Estimate the hours and the memory for embedding a run's texts with a frozen encoder (family
`embedding`), which reads long texts in windows."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from humanpref.config import Config
from humanpref.config.cpu import BlendOptions, EmbeddingOptions
from humanpref.config.gpu import trained_models
from humanpref.runs.lengths import approximate_tokens
from humanpref.training.batching import token_batches
from humanpref.training.memory import MemoryEstimate
from humanpref.training.roofline import Device, Passes
from humanpref.training.shapes import Shape

WINDOW = 512
"""Assumed maximum number of tokens per window, for an encoder known only by name."""
SPECIAL = 2
"""Number of special tokens in a window."""
NAMED = (22, 0)
"""Assumed numbers of tokens in the instructions before a prompt and before a response, if only the
instructions' names are known. Qwen3-Embedding's instructions have these numbers."""
LAST_TURNS = 1.1
"""Ratio of the tokens read to the tokens of the texts. In a conversation of several turns, the last
turn is also read separately, which added 10 % on 1,000 public rows."""


class Windows(NamedTuple):
    """An encoder, and the windows in which it reads texts."""

    folder: str
    """The folder or the hub name of the encoder's weights."""
    longest: int
    """Maximum number of tokens in a window."""
    leads: tuple[int, int]
    """Numbers of tokens that a window holds in addition to the text (the instruction and the
    special tokens): for a prompt, and for a response."""


def frozen_models(config: Config) -> list[Config]:
    """Return the models of a run that read texts with a frozen encoder. As in training, a blend's
    member without a backbone of its own uses the blend's. If the blend has none either, the member
    is left out."""
    models = trained_models(config)
    if not isinstance(config.model, BlendOptions):
        return [model for model in models if model.family == "embedding"]
    shared, found = config.model.backbone, []
    for text, model in zip(config.model.members, models, strict=True):
        if model.family == "embedding" and "model.backbone=" in text:
            found.append(model)
        elif model.family == "embedding" and shared:
            found.append(replace(model, model=replace(model.model, backbone=shared)))
    return found


def windows_of(options: EmbeddingOptions) -> Windows:
    """Return the windows in which an encoder reads texts. They are defined by its folder or, if
    only its name is known, by the constants of this module.

    Raises
    ------
    InputError
        If its folder is incomplete or unsupported.
    """
    place, instructions = options.backbone, []
    given = (options.prompt_instruction, options.response_instruction)
    if Path(place).is_dir():
        from humanpref.models.pretrained import load_backbone_config, load_tokenizer
        from humanpref.models.sentence_folder import Prompts, longest_window, modules_of

        modules = modules_of(Path(place))
        folder = str(modules[0][1] if modules else place)
        config, tokenizer = load_backbone_config(folder), load_tokenizer(folder)
        longest, _ = longest_window(Path(place), modules, config, tokenizer)
        prompts = Prompts.of(Path(place)) if modules else Prompts({}, None)
        names = ("prompt_instruction", "response_instruction")
        instructions = [prompts.chosen(*pair) for pair in zip(names, given, strict=True)]
        leads = approximate_tokens(instructions)
    else:
        folder, longest = place, WINDOW
        leads = [
            named if text and " " not in text else approximate_tokens([text or ""])[0]
            for text, named in zip(given, NAMED, strict=True)
        ]
    prompt, response = (lead + SPECIAL for lead in leads)
    return Windows(folder, options.max_length or longest, (prompt, response))


def window_lengths(texts: np.ndarray, windows: Windows, max_windows: int) -> np.ndarray:
    """Return the number of tokens in each window in which an encoder reads these rows.

    Parameters
    ----------
    texts : ndarray
        (n, 3) int64, the tokens of each row's prompt and responses.
    windows : Windows
    max_windows : int
        Maximum number of windows per text.

    Returns
    -------
    ndarray
        (windows,) int64.

    Examples
    --------
    >>> window_lengths(np.array([[30, 300, 0]]), Windows("", 256, (12, 2)), max_windows=4)
    array([ 42, 152, 152])
    """
    prompt, response = windows.leads
    lengths = []
    for column, lead in zip(texts.T, (prompt, response, response), strict=True):
        room = max(1, windows.longest - lead)
        for tokens in np.minimum(column[column > 0], max_windows * room).tolist():
            count = -(-tokens // room)
            lengths += [-(-tokens // count) + lead] * count
    return np.array(lengths, dtype=np.int64)


def embedding_hours(
    config: Config, shape: Shape, windows: Windows, texts: np.ndarray, rows: int, device: Device
) -> float:
    """Return the hours in which one GPU embeds the texts of `rows` rows, extrapolated from a sample
    of n rows. `texts`, (n, 3), has the numbers of tokens in the sample's texts."""
    lengths = window_lengths(texts, windows, config.model.max_windows)
    passes = Passes(shape, training=False, frozen=True)
    seconds = sum(
        passes.seconds(len(batch), int(lengths[batch].max()), device)
        for batch in token_batches(lengths, config.inference.batch_tokens)
    )
    return LAST_TURNS * seconds / 3600 / len(texts) * rows


def embedding_memory(config: Config, shape: Shape, windows: Windows) -> MemoryEstimate:
    """Estimate the GPU memory that an encoder needs to embed full windows. The weights of a decoder
    are in half precision, those of any other encoder in float32."""
    return MemoryEstimate(
        shape=shape,
        frozen_bytes=float((2 if shape.gated else 4) * shape.weights),
        trainable=0,
        length=windows.longest,
        half=True,
        sequences=max(1, config.inference.batch_tokens // windows.longest),
        backward=False,
    )
