"""Export a decoder as a plain folder, which transformers reads without this package."""

import copy
import dataclasses
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from scipy.special import softmax
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from humanpref import __version__
from humanpref.config import Config
from humanpref.config.neural import answer_words
from humanpref.files import check_new, folder_whole, read_json, write_json, write_whole
from humanpref.models.decoder import DecoderModel
from humanpref.models.pretrained import PROBES
from humanpref.runs.artifact import Artifact
from humanpref.runs.merging import check_base_can_change, decoder_in_float32
from humanpref.schema import CLASSES, ID, TEXT_COLUMNS, InputError
from humanpref.text.format import PROMPT, A, B, joint, pairs_in
from humanpref.text.plain_text import FixedText, fixed_text, padding_token, plain_tokenizer

CARD_FILE = "README.md"
TOLERANCE = 1e-4
"""The written folder counts as the same model if no probability differs by more than this. In
float32, different batches or a different attention kernel change a probability by about 1e-6."""
EDGES = ["", " a", "a ", "\n", "\n\na", "a\n", "a.\n\n", " \n "]
"""Texts that are empty, or begin or end with white space."""
ROOM = 4_096
"""Minimum `model.max_length` while the folder is checked, so that no test text is truncated."""


def export(folder: str | Path, out: str | Path) -> Path:
    """Write an artifact's decoder as a plain model of transformers, in float32, with its adapter
    merged into the base.

    A decoder with a linear head becomes a `…ForSequenceClassification` folder with the labels A, B
    and, if the model has three classes, tie. A decoder that answers with tokens becomes a
    `…ForCausalLM` folder. The folder's README.md states the model's limits, and contains a runnable
    example of how to format the texts and compute the probabilities. The written folder is read
    again and compared with the artifact.

    Parameters
    ----------
    folder : path
        An artifact with one model of family `decoder`, whose base can be found.
    out : path
        The new folder, which must not exist.

    Returns
    -------
    Path
        The new folder.

    Raises
    ------
    InputError
        If the model cannot be represented by the classes of transformers (several fold models,
        other families and heads, a quantized base), if its tokenizer splits a formatted text into
        different tokens than the text's separate parts, or if the written folder predicts
        differently.
    """
    check_new(out, inputs=[folder])
    artifact = Artifact.load(folder)
    _check_can_hold(artifact)
    model = decoder_in_float32(artifact.ensemble)
    inference = dataclasses.replace(model.inference, precision="no", swap_average=False)
    options = dataclasses.replace(model.model, max_length=max(ROOM, model.model.max_length))
    reader = copy.copy(model).set_params(inference=inference, model=options)
    probes = _probes([text.strip() for text in PROBES])
    expected = reader.predict_proba(probes)
    classes = CLASSES if model.ties else CLASSES[:2]
    tokens = model.answering(model.tokenizer_)[1] if model.model.head == "tokens" else []
    tokens = tokens[: len(classes)]
    fixed = fixed_text(model.template(), model.tokenizer_)
    texts = _texts(fixed, probes)
    with folder_whole(out) as unfinished:
        values = _write_model(model, fixed, tokens, classes, unfinished, artifact.folder)
        tokenizer = AutoTokenizer.from_pretrained(unfinished)
        if not _same_tokens(reader, fixed, tokenizer, probes):
            raise InputError(
                f"{artifact.folder}: cannot be exported: its tokenizer splits a formatted text "
                "into other tokens than the text's parts, which would change the predictions"
            )
        values["exact"] = _same_tokens(reader, fixed, tokenizer, _probes(EDGES))
        values["base"] = artifact.facts["backbone"]["name"]
        with write_whole(unfinished / CARD_FILE) as file:
            file.write(_card(values))
        del model, reader  # free the memory before the folder is read
        found = softmax(_logits(unfinished, tokenizer, texts, values), axis=-1)
        difference = np.abs(found - expected[:, : len(classes)]).max()
        if not difference <= TOLERANCE:
            raise InputError(
                f"{artifact.folder}: transformers' {values['kind']} predicts differently: a "
                f"probability is off by {difference:.2g}"
            )
    return Path(out)


def _write_model(
    model: DecoderModel,
    fixed: FixedText,
    tokens: list[int],
    classes: tuple[str, ...],
    folder: Path,
    source: Path,
) -> dict[str, Any]:
    """Write the plain weights, configuration and tokenizer, and return the values that the folder's
    README.md shows. This modifies the model's base."""
    tokenizer, template, options = model.tokenizer_, model.template(), model.model
    base = model.merge_adapter().cpu()
    plain = base if tokens else _classifier(base, model.module_.head[-1], classes, source)
    embeddings = base.get_input_embeddings().num_embeddings
    padding = padding_token(tokenizer, template.suffix[-1], embeddings)
    plain.config.pad_token_id = padding
    if tokens:
        plain.generation_config.pad_token_id = padding
    plain.save_pretrained(folder)
    plain_tokenizer(tokenizer, fixed, padding, options.max_length).save_pretrained(folder)
    config, path = folder / "config.json", folder / "tokenizer_config.json"
    write_json(config, _with_older_names(read_json(config)))
    # transformers 4 has a class of this name, which reads tokenizer.json as it is.
    write_json(path, read_json(path) | {"tokenizer_class": "PreTrainedTokenizerFast"})
    calibration = model.module_.calibration.tolist() if tokens else [1.0, 0.0, 0.0, 0.0]
    count = len(classes)
    return {
        "version": __version__,
        "kind": type(plain).__name__,
        "words": answer_words(options.answers)[:count] if tokens else [],
        "tokens": tokens,
        "classes": classes,
        "sharpness": calibration[0],
        "biases": calibration[1 : 1 + count],
        "labels": repr([fixed.before[part] for part in (PROMPT, A, B)]),
        "start": repr(fixed.prefix),
        "end": repr(fixed.suffix),
        "max_length": options.max_length,
        "prompt_share": options.prompt_share,
        "fixed_tokens": template.around() + sum(len(template.before[part]) for part in (A, B)),
        "swap_average": model.inference.swap_average,
        "padding": repr(tokenizer.convert_ids_to_tokens(padding)),
        # Only eager attention caps the scores; transformers silently omits the cap in all others.
        "eager": getattr(base.config, "attn_logit_softcapping", None) is not None,
    }


def _check_can_hold(artifact: Artifact) -> None:
    """Raise InputError if transformers has no class for the artifact's model."""
    source, leaves = artifact.folder, artifact.ensemble.leaves()
    families = sorted({artifact.facts["family"], *(leaf.config.family for leaf in leaves)})
    if families != ["decoder"]:
        raise InputError(
            f"{source}: expected family decoder, got {' and '.join(families)}; transformers has no "
            "class for a model of any other family"
        )
    if len(leaves) > 1:
        raise InputError(
            f"{source}: has {len(leaves)} models, expected one; first merge them: humanpref "
            f"merge {shlex.quote(str(source))} --out MERGED"
        )
    config: Config = leaves[0].config
    check_base_can_change(source, config)
    model, inference = config.model, config.inference
    for name, value, wanted in (
        ("model.head", model.head, ("linear", "tokens")),
        ("inference.normalise", inference.normalise, ("softmax",)),
    ):
        if value not in wanted:
            raise InputError(
                f"{source}: option {name}: expected {' or '.join(wanted)}, got {value}, which "
                "cannot be exported"
            )


def _classifier(
    base: PreTrainedModel, score: nn.Linear, classes: tuple[str, ...], source: Path
) -> PreTrainedModel:
    """Build transformers' classifier for a base of this type from the base and from the head's
    weights for A, B and, if there are three classes, tie."""
    if score.bias is not None and score.bias.any():
        raise InputError(
            f"{source}: option model.head_bias: expected false, got true; transformers' "
            "classifiers have no bias"
        )
    config = copy.deepcopy(base.config)
    config.num_labels, config.problem_type = len(classes), "single_label_classification"
    config.id2label = dict(enumerate(classes))
    config.label2id = {label: i for i, label in config.id2label.items()}
    try:
        with torch.device("meta"):
            plain = AutoModelForSequenceClassification.from_config(config)
    except ValueError:
        raise InputError(
            f"{source}: transformers has no classifier for models of type {config.model_type}"
        ) from None
    layer = getattr(plain, "score", None)
    weight = score.weight[: len(classes)]
    if not isinstance(layer, nn.Linear) or layer.weight.shape != weight.shape:
        raise InputError(
            f"{source}: cannot be exported: transformers' {type(plain).__name__} does not compute "
            "the scores with a single layer"
        )
    setattr(plain, plain.base_model_prefix, base)
    plain.score = nn.Linear(*reversed(weight.shape), bias=False)
    plain.score.weight.data.copy_(weight)
    plain.config.dtype = torch.float32
    return plain


def _with_older_names(config: dict[str, Any]) -> dict[str, Any]:
    """Also write the options of the rotary embeddings under their names in transformers 4, which
    servers built on it expect.

    Transformers 5 writes these options under `rope_parameters`, in some models separately for each
    type of attention. Older versions ignore this key and silently use the defaults of the model's
    type.
    """
    rope = config.get("rope_parameters") or {}
    full, local = rope.get("full_attention", rope), rope.get("sliding_attention")
    older = {key: full[key] for key in ("rope_theta", "partial_rotary_factor") if key in full}
    if full.get("rope_type", "default") != "default":
        older["rope_scaling"] = {key: full[key] for key in full if key not in older}
    if local:
        older["rope_local_base_freq"] = local["rope_theta"]
    return config | older


def _probes(texts: list[str]) -> pd.DataFrame:
    """Return pairs made of these texts, to compare models on. The last pair has two turns."""
    rows = [((texts[i],), (texts[i - 1],), (texts[i - 2],)) for i in range(len(texts))]
    rows.append((tuple(texts[:2]), tuple(texts[2:4]), tuple(texts[4:6])))
    frame = pd.DataFrame(rows, columns=list(TEXT_COLUMNS))
    frame.insert(0, ID, list(map(str, range(len(rows)))))
    return frame


def _texts(fixed: FixedText, pairs: pd.DataFrame) -> list[str]:
    return [fixed.around(joint(pair)[0]) for pair in pairs_in(pairs)]


def _same_tokens(
    model: DecoderModel, fixed: FixedText, tokenizer: Any, pairs: pd.DataFrame
) -> bool:
    """Return whether the tokenizer splits each formatted text into the same tokens as the model.
    The tokenizer reads the text as a whole; the model tokenizes its parts separately."""
    parts = [row[0].ids.tolist() for row in model.inputs(pairs).sequences]
    return [tokenizer(text).input_ids for text in _texts(fixed, pairs)] == parts


def _logits(folder: Path, tokenizer: Any, texts: list[str], values: dict[str, Any]) -> np.ndarray:
    """Read n texts with transformers only, and return their calibrated logits, (n, classes)
    float64."""
    kind = AutoModelForCausalLM if values["tokens"] else AutoModelForSequenceClassification
    options = {"attn_implementation": "eager"} if values["eager"] else {}
    plain = kind.from_pretrained(folder, **options).eval()
    with torch.inference_mode():
        if values["tokens"]:  # one by one, since the scores of all positions take much memory
            inputs = [tokenizer(text, return_tensors="pt") for text in texts]
            logits = torch.stack([plain(**one).logits[0, -1, values["tokens"]] for one in inputs])
        else:
            logits = plain(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    return values["sharpness"] * logits.double().numpy() + values["biases"]


def _card(values: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("humanpref.interfaces"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("export.md.j2").render(values)
