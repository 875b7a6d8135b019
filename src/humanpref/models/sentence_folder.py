"""A sentence encoder's folder: the module that makes one vector of a window's tokens, and the
settings that come with it.

sentence-transformers pools the tokens and does what follows. The backbone and its tokenizer do not
come through that library's `Transformer`: it starts weights that are missing at random, puts an
adapter on that lies beside them, and runs code of the folder.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    LayerNorm,
    Module,
    Normalize,
    Pooling,
)
from torch import Tensor, nn

from humanpref.files import read_json, write_json
from humanpref.models.pretrained import LOADING_ERRORS, base_folder, not_loaded
from humanpref.schema import InputError

LONGEST = 512
"""Tokens per window where the folder does not say: what most encoders were trained to read."""

_MODULES = {module.__name__: module for module in (Pooling, Dense, LayerNorm, Normalize)}
_LIBRARY = re.compile(r"^sentence_transformers\.(\w+\.)*")
_ORDER = re.compile("(Transformer Pooling( (Dense|LayerNorm|Normalize))*)?")
# Options that change the vectors, with the only values that are understood here.
_ENCODER_OPTIONS = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
}
_MODEL_OPTIONS = {"default_prompt_name": None, "truncate_dim": None}


class Settings(NamedTuple):
    """How a window becomes a vector, in plain JSON types."""

    modules: list[dict[str, Any]]
    max_length: int
    lower_case: bool


class SentenceModule(nn.Module):
    """A backbone without gradients and the modules after it: token ids and mask, (n, length), to
    vectors, (n, width) float32."""

    def __init__(self, backbone: nn.Module, modules: list[Module]) -> None:
        super().__init__()
        self.backbone, self.after = backbone, nn.Sequential(*modules)
        self.requires_grad_(False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        read = self.backbone(input_ids=input_ids, attention_mask=attention_mask)
        features = {
            "token_embeddings": read.last_hidden_state.float(),
            "attention_mask": attention_mask,
        }
        # A vector in half precision would be good to three digits only.
        with torch.autocast(input_ids.device.type, enabled=False):
            return self.after(features)["sentence_embedding"]

    def described(self) -> list[dict[str, Any]]:
        """The modules after the backbone, each with its type and settings."""
        return [{"type": type(own).__name__, **own.get_config_dict()} for own in self.after]

    def save(self, folder: Path, settings: Settings) -> None:
        """Write all of a sentence-transformer's folder but the tokenizer."""
        self.backbone.save_pretrained(folder)
        modules = [("Transformer", "")]
        for i, own in enumerate(self.after, start=1):
            kind = type(own).__name__
            modules.append((kind, f"{i}_{kind}"))
            if own.config_keys:
                (folder / f"{i}_{kind}").mkdir()
                own.save(str(folder / f"{i}_{kind}"))
        write_json(
            folder / "modules.json",
            [
                {
                    "idx": i,
                    "name": str(i),
                    "path": path,
                    "type": f"sentence_transformers.models.{kind}",
                }
                for i, (kind, path) in enumerate(modules)
            ],
        )
        lengths = {"max_seq_length": settings.max_length, "do_lower_case": settings.lower_case}
        write_json(folder / "sentence_bert_config.json", lengths)


def modules_of(folder: Path) -> list[tuple[str, Path]]:
    """A sentence-transformer's modules in their order, each with its folder; none for a plain
    encoder.

    Raises
    ------
    InputError
        If the list cannot be read, or names others than those that are understood here.
    """
    path = folder / "modules.json"
    try:
        modules = [(own["type"], folder / own["path"]) for own in _optional_json(path, [])]
        inside = all(own.resolve().is_relative_to(folder.resolve()) for _, own in modules)
        kinds = [_LIBRARY.sub("", kind) if "." in kind else f".{kind}" for kind, _ in modules]
    except (TypeError, KeyError):
        inside = False
    if not inside:
        raise InputError(f"{path}: expected a list of modules with type and path")
    if not _ORDER.fullmatch(" ".join(kinds)):
        raise InputError(
            f"{path}: expected Transformer, Pooling and perhaps Dense, LayerNorm or Normalize of "
            f"sentence-transformers, got {', '.join(kinds)}"
        )
    return [(kind, own) for kind, (_, own) in zip(kinds, modules, strict=True)]


def load_modules(modules: list[tuple[str, Path]]) -> list[Module]:
    """The modules after the backbone.

    Raises
    ------
    InputError
        If one cannot be loaded, or lacks weights.
    """
    made = []
    for kind, folder in modules:
        path = folder / "config.json"
        activation = str(_optional_json(path, {}).get("activation_function", ""))
        # The library calls whatever this names in torch, and takes Tanh for all else.
        if activation and not re.fullmatch(r"torch\.nn\.modules\.\w+\.\w+", activation):
            raise InputError(
                f"{path}: key 'activation_function': expected a module of torch.nn, got "
                f"{activation!r}"
            )
        if kind in ("Dense", "LayerNorm"):
            base_folder(str(folder))
        try:
            made.append(_MODULES[kind].load(str(folder), local_files_only=True))
        except (*LOADING_ERRORS, AttributeError) as error:
            raise InputError(not_loaded(str(folder), f"module {kind}", error)) from None
    return made


def longest_window(
    place: Path, modules: list[tuple[str, Path]], config: Any, tokenizer: Any
) -> tuple[int, bool]:
    """Tokens per window, special tokens included, and whether texts are read in lower case.

    Raises
    ------
    InputError
        If the folder's settings ask for what is not understood here.
    """
    folder = modules[0][1] if modules else place
    # Its name has the backbone's type in it in folders of early versions.
    path = min(folder.glob("sentence_*_config.json"), default=folder / "sentence_bert_config.json")
    options = _optional_json(path, {})
    extra = {key: None for key in options if key.endswith(("_args", "_kwargs"))}
    _check_options(path, options, _ENCODER_OPTIONS | extra)
    if modules:
        path = place / "config_sentence_transformers.json"
        _check_options(path, _optional_json(path, {}), _MODEL_OPTIONS)
    known = (tokenizer.model_max_length, getattr(config, "max_position_embeddings", None))
    # transformers has a very large number for a tokenizer that does not know.
    lengths = [length for length in known if length and length < 10**6] or [LONGEST]
    longest = options.get("max_seq_length") or min(lengths if modules else [LONGEST, *lengths])
    return longest, bool(options.get("do_lower_case"))


def _check_options(path: Path, options: dict[str, Any], understood: dict[str, Any]) -> None:
    for key, value in understood.items():
        if (options.get(key) or value) != value:
            raise InputError(f"{path}: key {key!r}: expected {value!r}, got {options[key]!r}")


def _optional_json(path: Path, default: Any) -> Any:
    """What a JSON file holds, of the kind of `default`, which stands for a file that is not
    there."""
    found = read_json(path) if path.is_file() else default
    if not isinstance(found, type(default)):
        raise InputError(
            f"{path}: expected a JSON {'list' if default == [] else 'object'}, got {found!r}"
        )
    return found
