"""Load pretrained configurations, tokenizers and weights with one-line error messages, and find the
base named in an artifact."""

import os
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from tokenizers import normalizers
from tokenizers.models import Unigram
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import SLOW_TO_FAST_CONVERTERS
from transformers.utils import cached_file
from transformers.utils.logging import disable_progress_bar

from humanpref.files import read_json
from humanpref.models.arrays import check_names
from humanpref.models.bases import BASE_FILE, BASE_VARIABLE, is_folder_name, places
from humanpref.models.checkpoint import base_digest, load_bin, weights_files
from humanpref.schema import InputError, counted, refuse_failures
from humanpref.text.tokens import text_ids
from humanpref.training.learned import learned_state, load_learned

# transformers' progress bar would add one line per weight to a log file.
disable_progress_bar()

MOST_LAYERS = 1_000
"""Maximum number of layers, or of experts in a layer. Building a model with ten million layers
would take days before it fails."""
# A hub folder's files other than the weights: settings, tokenizers, licenses.
_SMALL = ("*.json", "*.model", "*.jinja", "*.txt", "*.tiktoken", "*.codes", "LICENSE*", "NOTICE*")

# Texts on which tokenizers differ: case, digits, compatibility forms, scripts, emoji, spaces, rare
# characters.
PROBES = (
    "Hello, World! 1,234.5 (100 %)",
    "x² + y² … 5 µm, ﬁne naïve Ünïcödé",
    "你好，世界。「引用」！ カタカナ ｶﾅ Привет",
    "🙂 👍🏽 — “quoted” ``tex'' don't",
    "ꙮ ⠿ 𓀀 \u200b",
    " a   b\n\n\tc\u00a0d  ",
)


def load_tokenizer(name: str) -> Any:
    """Load a tokenizer by folder or hub name, with the same result in every version of
    transformers.

    If a `tokenizer.json` exists, only that file is used, since transformers 5 would rebuild some
    classes from the vocabulary. A sentencepiece model gets the normalizer and the template of its
    family.

    Raises
    ------
    InputError
        If the tokenizer cannot be loaded, contradicts its files, or has only special tokens, like
        the tokenizer that transformers makes up for a folder without one.
    """
    name = str(local_folder(name, weights=False))
    with loading(name, "tokenizer"):
        file = cached_file(name, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
        tokenizer = _from_file(name) if file else _from_vocabulary(name)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(
            f"backbone {name}: expected a vocabulary, got only special tokens; are the tokenizer's "
            "files in the folder?"
        )
    text_ids(PROBES, tokenizer)
    return tokenizer


def _from_file(name: str) -> Any:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(name, trust_remote_code=False)
    if tokenizer.cls_token is tokenizer.bos_token is tokenizer.eos_token is None:
        # In the folders of early models, only the family's class knows the special tokens.
        with suppress(Exception):
            named = _by_class(name).special_tokens_map
            vocabulary = tokenizer.get_vocab()
            tokenizer.add_special_tokens(
                {key: token for key, token in named.items() if str(token) in vocabulary}
            )
    normalizer = tokenizer.backend_tokenizer.normalizer
    if isinstance(normalizer, normalizers.BertNormalizer):
        lower_case, accents = normalizer.lowercase, normalizer.strip_accents
        in_file = {
            "do_lower_case": lower_case,
            "strip_accents": lower_case if accents is None else accents,
            "tokenize_chinese_chars": normalizer.handle_chinese_chars,
        }
        for key, value in in_file.items():  # transformers 4 would follow tokenizer_config.json
            configured = tokenizer.init_kwargs.get(key)
            if configured not in (None, value):
                raise InputError(
                    f"backbone {name}: tokenizer_config.json has {key} {configured}, "
                    f"but tokenizer.json has {value}; make them equal"
                )
    return tokenizer


def _by_class(name: str) -> Any:
    config = load_backbone_config(name)
    return AutoTokenizer.from_pretrained(name, config=config, trust_remote_code=False)


def _from_vocabulary(name: str) -> Any:
    tokenizer = _by_class(name)
    model = str(getattr(tokenizer, "vocab_file", None))
    if not model.endswith(".model"):
        return tokenizer
    lower_case = getattr(tokenizer, "do_lower_case", False)
    family = SLOW_TO_FAST_CONVERTERS.get(type(tokenizer).__name__.removesuffix("Fast"))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if family and isinstance(getattr(backend, "model", None), Unigram):
        # The family's own converter drops the bytes with which the model spells unknown characters.
        converter = type("Converter", (family,), {"handle_byte_fallback": True})
        tokenizer.add_prefix_space = True  # as sentencepiece does
        backend = converter(tokenizer).converted()
        # Its normalizer turns some characters into spaces, which sentencepiece strips afterward.
        backend.normalizer = normalizers.Sequence([backend.normalizer, normalizers.Strip()])
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            model_max_length=tokenizer.model_max_length,
            chat_template=tokenizer.chat_template,
            added_tokens_decoder=tokenizer.added_tokens_decoder,
            **tokenizer.special_tokens_map,
        )
    _check_pieces(name, tokenizer, model, lower_case)
    return tokenizer


def _check_pieces(name: str, tokenizer: Any, model: str, lower_case: bool) -> None:
    """Raise InputError if a tokenizer's tokens differ from those of its sentencepiece model, or if
    it does not put its initial special token before a text."""
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=model)
    for text in PROBES:
        pieces = processor.encode(text.lower() if lower_case else text, out_type=str)
        if text_ids([text], tokenizer)[0] != tokenizer.convert_tokens_to_ids(pieces):
            raise InputError(
                f"backbone {name}: transformers and {Path(model).name} split {text!r} into "
                "different tokens; expected a folder with tokenizer.json"
            )
    first = tokenizer.bos_token if tokenizer.cls_token is None else tokenizer.cls_token
    wanted = first is not None and tokenizer.init_kwargs.get("add_bos_token", True)
    if wanted and first not in tokenizer("a").tokens():
        raise InputError(
            f"backbone {name}: transformers does not put {first} before a text; expected a folder "
            "with tokenizer.json"
        )


def check_ids(name: str, tokenizer: Any, fixed: Iterable[int], embeddings: int) -> int:
    """Check that every token that can occur in a text, and each of the `fixed` tokens around it,
    has an embedding.

    Returns
    -------
    int
        The largest token id that can occur in a text.

    Raises
    ------
    InputError
        If a token has no embedding.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    largest = max(set(tokenizer.get_vocab().values()) - special, default=0)
    last = max(largest, *fixed)
    if last >= embeddings:
        raise InputError(
            f"backbone {name}: its tokenizer has a token {last} "
            f"({tokenizer.convert_ids_to_tokens(last)}), but its model has only {embeddings} "
            "embeddings"
        )
    return largest


def load_backbone_config(name: str) -> Any:
    """Load a backbone's configuration by folder or hub name. An attention implementation that the
    configuration names is ignored.

    Raises
    ------
    InputError
        If it cannot be loaded, does not name its model type, or has both an encoder and a decoder.
    """
    name = str(local_folder(name, weights=False))
    with loading(name, "configuration"):
        values, _ = PretrainedConfig.get_config_dict(name)
        # Without a type, transformers would guess one from the path.
        if not values.get("model_type"):
            raise ValueError("config.json has no model_type")
        _check_layers(values)
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    # A name with a slash would make transformers download and run code of that name.
    config._attn_implementation = None
    if config.is_encoder_decoder:
        raise InputError(
            f"backbone {name}: a {config.model_type} model has both an encoder and a decoder; "
            "expected only one of them"
        )
    return config


def _check_layers(values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            _check_layers(value)
        counts = isinstance(value, int | float) and re.search("(layers?|experts|blocks)$", key)
        if counts and value > MOST_LAYERS:
            raise ValueError(f"{key}: expected at most {MOST_LAYERS}, got {value}")


def load_pretrained(name: str, folder: str | Path, kind: type, **options: Any) -> nn.Module:
    """Load a model and all its weights with a class of transformers (`kind`), whose
    `from_pretrained` takes the options; `name` is used in error messages.

    Raises
    ------
    InputError
        If the model cannot be loaded, or if the checkpoint lacks weights (other than a pooler's),
        which transformers would initialize at random.
    """
    with loading(name, "weights"):
        model, info = kind.from_pretrained(
            folder, trust_remote_code=False, output_loading_info=True, **options
        )
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise InputError(
            f"backbone {name}: the checkpoint lacks {counted(len(missing), 'weight')} of the "
            f"model, e.g. {', '.join(missing[:3])}"
        )
    return model


def load_state_strictly(module: nn.Module, path: Path) -> None:
    """Load a module's trainable weights and buffers from a safetensors file.

    Raises
    ------
    InputError
        If the file cannot be read, or if a weight is missing, is unexpected, or has a different
        shape.
    """
    with refuse_failures(f"{path}: cannot be read as safetensors"):
        state = load_file(path)
    expected = learned_state(module)
    check_names(path, set(expected), set(state))
    for name, tensor in state.items():
        wanted, actual = tuple(expected[name].shape), tuple(tensor.shape)
        if wanted != actual:
            raise InputError(f"{path}: weight {name}: expected shape {wanted}, got {actual}")
    load_learned(module, state)


def local_folder(name: str, weights: bool = True) -> Path:
    """Return the folder with this name. If it does not exist, download the model of this name from
    the hub to the local cache, with or without its `weights`, and return the folder there.

    Raises
    ------
    InputError
        If neither exists.
    """
    if Path(name).is_dir():
        return Path(name)
    patterns = [*_SMALL, "*.safetensors"] if weights else _SMALL
    with loading(name, "weights"):
        # The folder is requested as a whole, because the hub's client then does not repeat calls
        # that get no answer.
        folder = Path(snapshot_download(name, allow_patterns=patterns))
        # Hub folders contain the weights in several formats; .bin is only the last resort.
        if weights and not any(folder.rglob("*.safetensors")):
            snapshot_download(name, allow_patterns=["*pytorch_model*.bin"])
    return folder


def base_folder(name: str) -> Path:
    """Return the folder of a pretrained model (`local_folder`) after checking that its weights are
    complete (`humanpref.models.checkpoint`)."""
    folder = local_folder(name)
    for path in weights_files(folder):
        if path.suffix == ".bin":
            load_bin(path)
    return folder


def find_base(artifact: Path) -> tuple[Path, dict[str, str]]:
    """Find the base on which `artifact` (a model's folder) was trained, by name and digest.

    The folders of `humanpref.models.bases.places` are tried in order. If there are none and
    HUMANPREF_BASE is not set, the base's name is looked up on the hub, unless it is a path.

    Returns
    -------
    (Path, dict)
        The folder, and the base's `name` and `sha256`.

    Raises
    ------
    InputError
        If no such folder holds the base's weights.
    """
    path = artifact / BASE_FILE
    record = read_json(path)
    try:
        name, wanted = str(record["name"]), str(record["sha256"])
    except (KeyError, TypeError):
        raise InputError(f"{path}: expected the base's name and sha256, got {record!r}") from None
    folders = list(places(name, wanted, artifact))
    if not (folders or os.environ.get(BASE_VARIABLE) or is_folder_name(name)):
        folders = [base_folder(name)]
    tried = []
    for folder in folders:
        digest = base_digest(folder)
        if digest == wanted:
            return folder, record
        tried.append(f"{folder} holds different weights (sha256 {digest[:16]}…)")
    raise InputError(
        f"{artifact}: was trained on base {name} (sha256 {wanted[:16]}…); "
        f"{'; '.join(tried) or 'it was not found'}; set {BASE_VARIABLE} to that base's folder"
    )


def backbone_facts(name: str, backbone: nn.Module) -> dict[str, Any]:
    """Describe a backbone for the report. For a folder, only the last part of its path is kept,
    since artifacts are moved between machines."""
    config = backbone.config
    return {
        "name": Path(name).resolve().name if Path(name).is_dir() else name,
        "model_type": config.model_type,
        "hidden_size": config.hidden_size,
        "layers": config.num_hidden_layers,
        "vocabulary": config.vocab_size,
        "parameters": sum(map(weights_in, backbone.parameters())),
    }


def weights_in(parameter: nn.Parameter) -> int:
    """Count the weights in a parameter; bitsandbytes packs two 4-bit weights into one byte."""
    return parameter.numel() * (2 if parameter.dtype == torch.uint8 else 1)


def loading(name: str, part: str) -> AbstractContextManager:
    """Return a context that raises any failure to load a part of a backbone as an InputError."""
    return refuse_failures(lambda error: not_loaded(name, part, error))


def not_loaded(name: str, part: str, error: Exception) -> str:
    """Return the error message for a part of a backbone that could not be loaded. If no folder has
    this name, the message also gives the reason why the hub's model could not be loaded."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(" :")
    if not os.path.isdir(name):
        return (
            f"backbone {name}: no such model here: --set model.backbone=FOLDER "
            f"(no such folder; the hub: {reason})"
        )
    return (
        f"backbone {name}: its {part} cannot be loaded; expected a folder that holds it ({reason})"
    )
