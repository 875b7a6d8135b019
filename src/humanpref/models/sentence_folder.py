"""Read and write a sentence encoder's folder: the module that turns a window's tokens into one
vector, the encoder's settings, and its instructions.

sentence-transformers' own modules pool the tokens and perform the subsequent steps. The library's
`Transformer`, which would load the backbone and the tokenizer, is not used: it initializes missing
weights at random, applies any adapter that it finds in the folder, and runs the folder's code.
"""

import copy
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
from humanpref.models.older_gpus import prepare
from humanpref.models.pretrained import base_folder, loading
from humanpref.schema import InputError

LONGEST = 512
"""Maximum number of tokens per window if the folder does not specify one; most encoders were
trained with this number."""

MOST_TOKENS = 100_000
"""Maximum number of tokens per window that a folder may specify."""

_MODULES = {module.__name__: module for module in (Pooling, Dense, LayerNorm, Normalize)}
_FROM = r"sentence_transformers\.(\w+\.)*"  # versions differ in the modules' paths
_ORDER = re.compile(f"({_FROM}Transformer {_FROM}Pooling( {_FROM}(Dense|LayerNorm|Normalize))*)?")
# Options that would change the vectors, each with the only supported value.
_ENCODER_OPTIONS = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
}
_MODEL_OPTIONS = {"truncate_dim": None}
_MODEL_FILE = "config_sentence_transformers.json"


class Settings(NamedTuple):
    """The settings that determine how a window becomes a vector, in plain JSON types."""

    modules: list[dict[str, Any]]
    max_length: int
    lower_case: bool


class Instructions(NamedTuple):
    """The instructions before each prompt and each response; empty for none."""

    prompt: str
    response: str


class Prompts(NamedTuple):
    """The instructions that a sentence-transformer's folder defines (its `prompts`): texts by name,
    and the name of the default, if there is one."""

    texts: dict[str, str]
    default: str | None

    @classmethod
    def of(cls, folder: Path) -> "Prompts":
        """Read the folder's config_sentence_transformers.json; if it does not exist, there are no
        instructions.

        Raises
        ------
        InputError
            If it cannot be read.
        """
        path = folder / _MODEL_FILE
        options = _optional_json(path, {})
        texts, default = options.get("prompts") or {}, options.get("default_prompt_name") or None
        if not isinstance(texts, dict) or not {type(text) for text in texts.values()} <= {str}:
            raise InputError(f"{path}: key 'prompts': expected an object of texts, got {texts!r}")
        if default not in (None, *texts):
            raise InputError(
                f"{path}: key 'default_prompt_name': expected a name in 'prompts', got {default!r}"
            )
        return cls(texts, default)

    def chosen(self, option: str, value: str | None) -> str:
        """Return the instruction that an option's value selects. The value is a name in the folder,
        the instruction itself (several words), empty for none, or None for the folder's default.

        Raises
        ------
        InputError
            If a single word is not a name in the folder.

        Examples
        --------
        >>> Prompts({"query": "Find: "}, None).chosen("prompt_instruction", "query")
        'Find: '
        """
        if value is None:
            value = self.default or ""
        if value in self.texts:
            return self.texts[value]
        if re.fullmatch(r"[\w.-]+", value):
            names = ", ".join(self.texts) or "it has none"
            raise InputError(
                f"option model.{option}: expected several words, or the name of one of the "
                f"folder's prompts ({names}), got {value!r}"
            )
        return value

    def save(self, folder: Path) -> None:
        """Write the folder's config_sentence_transformers.json."""
        write_json(
            folder / _MODEL_FILE, {"prompts": self.texts, "default_prompt_name": self.default}
        )


class SentenceModule(nn.Module):
    """A frozen backbone and the modules after it. They turn token ids and an attention mask, each
    (n, length), into vectors, (n, width) float32. Padding may be on either side."""

    def __init__(self, backbone: nn.Module, modules: list[Module]) -> None:
        super().__init__()
        self.backbone, self.after = backbone, nn.Sequential(*modules)
        self.requires_grad_(False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, pooled_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the vectors. `pooled_mask` marks the tokens that are pooled; by default, all
        except padding."""
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask if pooled_mask is None else pooled_mask
        features = {"token_embeddings": states.float(), "attention_mask": mask}
        # Half precision would leave the vector with only three significant digits.
        with torch.autocast(input_ids.device.type, enabled=False):
            return self.after(features)["sentence_embedding"]

    def halved(self, dtype: torch.dtype, device: torch.device) -> "SentenceModule":
        """Return a copy of the module on a GPU. The copy's backbone, a decoder, has weights in half
        precision and, under float16 autocast, a residual stream in float32
        (`humanpref.models.older_gpus`).

        Buffers keep their precision: a rotary embedding's frequencies need it.
        """
        weights = {
            id(weight): nn.Parameter(weight.to(device, dtype), requires_grad=False)
            for weight in self.backbone.parameters()
        }
        # deepcopy takes an object's copy from this dictionary, so no float32 copies are made.
        module = copy.deepcopy(self, weights).to(device)
        prepare(module.backbone, device)
        return module

    def described(self) -> list[dict[str, Any]]:
        """Return the type and the settings of each module after the backbone."""
        return [{"type": type(own).__name__, **own.get_config_dict()} for own in self.after]

    def save(self, folder: Path, settings: Settings) -> None:
        """Write a sentence-transformer folder, except for the tokenizer."""
        self.backbone.save_pretrained(folder)
        modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
        for i, own in enumerate(self.after, start=1):
            kind = type(own).__name__
            modules.append({"path": f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"})
            if own.config_keys:
                (folder / f"{i}_{kind}").mkdir()
                own.save(str(folder / f"{i}_{kind}"))
        numbered = [{"idx": i, "name": str(i), **module} for i, module in enumerate(modules)]
        write_json(folder / "modules.json", numbered)
        lengths = {"max_seq_length": settings.max_length, "do_lower_case": settings.lower_case}
        write_json(folder / "sentence_bert_config.json", lengths)


def modules_of(folder: Path) -> list[tuple[str, Path]]:
    """Return the modules of a sentence-transformer, in the order of its modules.json, as (type,
    folder). For a plain encoder, which lacks this file, the list is empty.

    Raises
    ------
    InputError
        If modules.json cannot be read, or names unsupported modules.
    """
    path = folder / "modules.json"
    try:
        listed = _optional_json(path, [])
        types = " ".join(module["type"] for module in listed)
        folders = [folder / module["path"] for module in listed]
        inside = all(own.resolve().is_relative_to(folder.resolve()) for own in folders)
    except (TypeError, KeyError):
        inside = False
    if not inside:
        raise InputError(f"{path}: expected a list of modules with type and path in the folder")
    if not _ORDER.fullmatch(types):
        raise InputError(
            f"{path}: expected Transformer, Pooling and perhaps Dense, LayerNorm or Normalize of "
            f"sentence-transformers, got {types}"
        )
    return [
        (kind.rpartition(".")[2], own) for kind, own in zip(types.split(), folders, strict=True)
    ]


def load_modules(modules: list[tuple[str, Path]]) -> list[Module]:
    """Load the modules after the backbone.

    Raises
    ------
    InputError
        If a module cannot be loaded, or lacks weights.
    """
    loaded = []
    for kind, folder in modules:
        path = folder / "config.json"
        activation = str(_optional_json(path, {}).get("activation_function", ""))
        # The library would call any torch function named here, and would use Tanh for any other
        # name.
        if activation and not re.fullmatch(r"torch\.nn\.modules\.\w+\.\w+", activation):
            raise InputError(
                f"{path}: key 'activation_function': expected a module of torch.nn, got "
                f"{activation!r}"
            )
        if kind in ("Dense", "LayerNorm"):
            base_folder(str(folder))
        with loading(str(folder), f"module {kind}"):
            loaded.append(_MODULES[kind].load(str(folder), local_files_only=True))
    return loaded


def longest_window(
    place: Path, modules: list[tuple[str, Path]], config: Any, tokenizer: Any
) -> tuple[int, bool]:
    """Return the maximum number of tokens per window, special tokens included, and whether texts
    are lower-cased.

    Raises
    ------
    InputError
        If the folder has unsupported settings.
    """
    folder = modules[0][1] if modules else place
    # In early versions, the file name contains the backbone's type.
    path = min(folder.glob("sentence_*_config.json"), default=folder / "sentence_bert_config.json")
    options = _optional_json(path, {})
    extra = {key: None for key in options if key.endswith(("_args", "_kwargs"))}
    _check_options(path, options, _ENCODER_OPTIONS | extra)
    if modules:
        path = place / _MODEL_FILE
        _check_options(path, _optional_json(path, {}), _MODEL_OPTIONS)
    known = (tokenizer.model_max_length, getattr(config, "max_position_embeddings", None))
    # transformers reports a very large number for a tokenizer without a limit.
    lengths = [length for length in known if length and length < 10**6] or [LONGEST]
    longest = options.get("max_seq_length") or min(lengths if modules else [LONGEST, *lengths])
    if not isinstance(longest, int) or not 0 < longest <= MOST_TOKENS:
        expected = f"expected a window of 1 to {MOST_TOKENS} tokens"
        raise InputError(f"{path}: {expected}, got {longest!r}")
    return longest, bool(options.get("do_lower_case"))


def _check_options(path: Path, options: dict[str, Any], supported: dict[str, Any]) -> None:
    for key, value in supported.items():
        if (options.get(key) or value) != value:
            raise InputError(f"{path}: key {key!r}: expected {value!r}, got {options[key]!r}")


def _optional_json(path: Path, default: Any) -> Any:
    """Read a JSON file, or return `default` if it does not exist. Raise InputError if the value is
    not of the type of `default`."""
    value = read_json(path) if path.is_file() else default
    if not isinstance(value, type(default)):
        kind = "list" if default == [] else "object"
        raise InputError(f"{path}: expected a JSON {kind}, got {value!r}")
    return value
