"""Pretrained models: loading them, or saying in one line why not; finding again the base that an
artifact names."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
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
from humanpref.models.checkpoint import base_digest, load_bin, weights_files
from humanpref.schema import InputError
from humanpref.text.tokens import text_ids
from humanpref.training.learned import learned_state, load_learned

# transformers draws a bar over the weights that it loads, one line for each of them where the
# output is a file.
disable_progress_bar()

BASE_FILE = "base.json"
BASE_VARIABLE = "HUMANPREF_BASE"
"""The environment variable that says where an artifact's base is: its folder, or one that holds it
under its name."""

# What transformers raises for a folder that is not what it should be.
LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    ImportError,
    SafetensorError,
)

# What a hub's folder has beside weights: settings, tokenizers, terms.
_SMALL = ("*.json", "*.model", "*.jinja", "*.txt", "*.tiktoken", "*.codes", "LICENSE*", "NOTICE*")

# Where tokenizers differ: cases, digits, compatibility forms, scripts, emoji, spaces, characters
# that few vocabularies have.
PROBES = (
    "Hello, World! 1,234.5 (100 %)",
    "x² + y² … 5 µm, ﬁne naïve Ünïcödé",
    "你好，世界。「引用」！ カタカナ ｶﾅ Привет",
    "🙂 👍🏽 — “quoted” ``tex'' don't",
    "ꙮ ⠿ 𓀀 \u200b",
    " a   b\n\n\tc\u00a0d  ",
)


def load_tokenizer(name: str) -> Any:
    """A tokenizer by folder or hub name, the same under every version of transformers.

    What `tokenizer.json` says is what texts go through; transformers 5 would rebuild some classes
    from the vocabulary alone. A folder with a sentencepiece model instead gets the normalizer and
    the template of its family.

    Raises
    ------
    InputError
        If it cannot be loaded, contradicts its files, or knows no words: transformers makes up an
        empty one where a folder holds a model's configuration but no tokenizer, and every text is
        then the same unknown token.
    """
    try:
        own = cached_file(name, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
        tokenizer = _from_file(name) if own else _from_vocabulary(name)
    except InputError:
        raise
    except Exception as error:  # tokenizers raises nothing narrower
        raise InputError(not_loaded(name, "tokenizer", error)) from None
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(
            f"backbone {name}: its tokenizer knows no words; are the tokenizer's files in the "
            "folder?"
        )
    return tokenizer


def _from_file(name: str) -> Any:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(name, trust_remote_code=False)
    if tokenizer.cls_token is tokenizer.bos_token is tokenizer.eos_token is None:
        # Early folders leave it to the family's class to name the special tokens.
        with contextlib.suppress(*LOADING_ERRORS):
            named = _by_class(name).special_tokens_map
            known = tokenizer.get_vocab()
            tokenizer.add_special_tokens(
                {of: token for of, token in named.items() if str(token) in known}
            )
    normalizer = tokenizer.backend_tokenizer.normalizer
    if isinstance(normalizer, normalizers.BertNormalizer):
        lower_case, accents = normalizer.lowercase, normalizer.strip_accents
        own = {
            "do_lower_case": lower_case,
            "strip_accents": lower_case if accents is None else accents,
            "tokenize_chinese_chars": normalizer.handle_chinese_chars,
        }
        for key, value in own.items():  # transformers 4 lets the configuration overrule the file
            if tokenizer.init_kwargs.get(key) not in (None, value):
                raise InputError(
                    f"backbone {name}: tokenizer_config.json has {key} "
                    f"{tokenizer.init_kwargs[key]}, tokenizer.json {value}"
                )
    return tokenizer


def _by_class(name: str) -> Any:
    return AutoTokenizer.from_pretrained(
        name, config=load_backbone_config(name), trust_remote_code=False
    )


def _from_vocabulary(name: str) -> Any:
    tokenizer = _by_class(name)
    model = getattr(tokenizer, "vocab_file", None)
    if not str(model).endswith(".model"):
        return tokenizer
    lower_case = getattr(tokenizer, "do_lower_case", False)
    family, backend = (
        type(tokenizer).__name__.removesuffix("Fast"),
        getattr(tokenizer, "backend_tokenizer", None),
    )
    if (
        family in SLOW_TO_FAST_CONVERTERS
        and backend is not None
        and isinstance(backend.model, Unigram)
    ):
        # The converter itself gives up a sentencepiece model's bytes for characters that it does
        # not know.
        converter = type(
            "Converter", (SLOW_TO_FAST_CONVERTERS[family],), {"handle_byte_fallback": True}
        )
        tokenizer.add_prefix_space = True  # as sentencepiece does
        backend = converter(tokenizer).converted()
        # Its normalization makes spaces of other characters, and sentencepiece strips after it.
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
    """Raise InputError where a tokenizer is not its sentencepiece model with the family's tokens
    around it."""
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=model)
    for text in PROBES:
        pieces = processor.encode(text.lower() if lower_case else text, out_type=str)
        if text_ids([text], tokenizer)[0] != tokenizer.convert_tokens_to_ids(pieces):
            raise InputError(
                f"backbone {name}: {Path(model).name} makes other tokens of {text!r} than "
                "transformers; expected a folder with "
                "tokenizer.json"
            )
    first = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    if (
        first is not None
        and first not in tokenizer("a").input_ids
        and tokenizer.init_kwargs.get("add_bos_token", True)
    ):
        raise InputError(
            f"backbone {name}: transformers puts no {tokenizer.convert_ids_to_tokens(first)} "
            "before a text; expected a folder "
            "with tokenizer.json"
        )


def check_ids(name: str, tokenizer: Any, fixed: Iterable[int], embeddings: int) -> int:
    """Raise InputError where a token that a text can give, or one of the `fixed` ones around it,
    has no embedding.

    Returns
    -------
    int
        The largest id that a text can give.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    largest = max((i for i in tokenizer.get_vocab().values() if i not in special), default=0)
    beyond = max(largest, *fixed)
    if beyond >= embeddings:
        raise InputError(
            f"backbone {name}: its tokenizer has a token {beyond} "
            f"({tokenizer.convert_ids_to_tokens(beyond)}), its model "
            f"{embeddings} embeddings"
        )
    return largest


def load_backbone_config(name: str) -> Any:
    """A backbone's configuration by folder or hub name, without what it says about the attention's
    code.

    Raises
    ------
    InputError
        If it cannot be loaded, does not say what model it is of, or has an encoder and a decoder.
    """
    if (Path(name) / "adapter_config.json").is_file() and not (
        Path(name) / "config.json"
    ).is_file():
        raise InputError(
            f"backbone {name}: an adapter alone, without its model; merge it into its base and "
            "save that"
        )
    try:
        if not PretrainedConfig.get_config_dict(name)[0].get("model_type"):
            raise ValueError(
                "config.json has no model_type"
            )  # transformers would guess it from the path
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except LOADING_ERRORS as error:
        raise InputError(not_loaded(name, "configuration", error)) from None
    # A name with a slash would make transformers fetch code of that name and run it.
    config._attn_implementation = None
    if config.is_encoder_decoder:
        raise InputError(
            f"backbone {name}: a {config.model_type} model is not an encoder, nor a decoder alone"
        )
    return config


def load_state_strictly(module: nn.Module, path: Path) -> None:
    """Fill what a module learns (its trainable weights and its buffers) from a safetensors file.

    Raises
    ------
    InputError
        If the file cannot be read, or a weight is missing, too many, or of another shape.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({error})") from None
    expected = learned_state(module)
    check_names(path, set(expected), set(state))
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{path}: weight {name}: expected shape {tuple(expected[name].shape)}, got "
                f"{tuple(tensor.shape)}"
            )
    load_learned(module, state)


def local_folder(name: str) -> Path:
    """The folder of that name, or the hub's in the local cache (downloaded if it is not there).

    Raises
    ------
    InputError
        If neither is to be had.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*_SMALL, "*.safetensors"]))
        # The hub's folders hold the same weights in other formats as well; .bin is for those that
        # have nothing else.
        if not any(folder.rglob("*.safetensors")):
            snapshot_download(name, allow_patterns=["*pytorch_model*.bin"])
    except (*LOADING_ERRORS, HFValidationError) as error:
        raise InputError(not_loaded(name, "weights", error)) from None
    return folder


def base_folder(name: str) -> Path:
    """The folder of a base model by its name, as `local_folder`, its weights whole
    (`humanpref.models.checkpoint`)."""
    folder = local_folder(name)
    for path in weights_files(folder):
        if path.suffix == ".bin":
            load_bin(path)
    return folder


def find_base(artifact: Path) -> tuple[Path, dict[str, str]]:
    """The folder of the base that `artifact` (a model's folder) was trained on, its weights
    checked, and its name and digest.

    Looked at, in this order: the folder in the environment variable HUMANPREF_BASE; what the
    artifact names, a folder or a hub name; a folder of that name beside the artifact or beside the
    folder that holds it.

    Raises
    ------
    InputError
        If the base is in none of these places, or only one with other weights.
    """
    record = read_json(artifact / BASE_FILE)
    if not (
        isinstance(record, dict)
        and all(isinstance(record.get(key), str) for key in ("name", "sha256"))
    ):
        raise InputError(
            f"{artifact / BASE_FILE}: expected the base's name and sha256, got {record!r}"
        )
    name, last = record["name"], Path(record["name"]).name
    given = [Path(os.environ[BASE_VARIABLE])] if os.environ.get(BASE_VARIABLE) else []
    places = [place for folder in given for place in (folder, folder / last)]
    places += [Path(name), *(folder / last for folder in artifact.resolve().parents[:3])]
    tried = []
    for place in dict.fromkeys(places):
        if not (place / "config.json").is_file():
            continue
        digest = base_digest(place)
        if digest == record["sha256"]:
            return place, record
        tried.append(f"{place} holds other weights (sha256 {digest[:16]}…)")
    if not tried and not Path(name).is_absolute() and not given:
        folder = base_folder(name)
        digest = base_digest(folder)
        if digest == record["sha256"]:
            return folder, record
        tried.append(f"{folder} holds other weights (sha256 {digest[:16]}…)")
    raise InputError(
        f"{artifact}: was trained on base {name} (sha256 {record['sha256'][:16]}…); "
        f"{'; '.join(tried) or 'it is not there'}; set {BASE_VARIABLE} to the folder that holds it"
    )


def backbone_facts(name: str, backbone: nn.Module) -> dict[str, Any]:
    """What was really used: for a folder its last name alone, since artifacts travel."""
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
    """How many weights it stands for: bitsandbytes packs two of 4 bits into a byte."""
    return parameter.numel() * (2 if parameter.dtype == torch.uint8 else 1)


def not_loaded(name: str, what: str, error: Exception) -> str:
    """What to say of a backbone whose part (`what`) could not be loaded; without a folder of its
    name the hub was asked."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(" :")
    first = first if os.path.isdir(name) else f"no such folder here; {first}"
    return (
        f"backbone {name}: its {what} cannot be loaded; expected a folder or a hub name that holds "
        f"it ({first})"
    )
