"""A frozen sentence encoder: any sentence-transformer folder, or any Hugging Face encoder, and the
vectors of texts under it.

A text that is longer than the encoder reads is read in windows of equal length, and a text is its
windows' vectors: what compares texts may take their mean or attend to them one by one. A very long
text keeps as many windows from its head as from its tail.
"""

import hashlib
import json
import weakref
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from humanpref.files import read_json, write_json
from humanpref.models.encoder import check_encoder, load_backbone
from humanpref.models.heads import masked_mean
from humanpref.models.pretrained import load_tokenizer, local_folder
from humanpref.schema import InputError
from humanpref.text.tokens import BATCH_TEXTS, cut_middle, template_of, text_ids
from humanpref.training.predict import predict_logits

# How sentence-transformers before 5.4 says the mode, a flag for each.
POOLING_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}
LONGEST = 512
"""Tokens per window where the folder does not say: what most encoders were trained to read."""
MEMO_BYTES = 2**30
"""Vectors of one encoder that are kept in memory for the next model of the process that asks for
the same texts."""


class Windows(NamedTuple):
    """One text: its windows' vectors, (windows, width) float32, and how many tokens each stands
    for, (windows,) float64.

    A text without tokens is one zero vector.
    """

    vectors: np.ndarray
    tokens: np.ndarray


class Settings(NamedTuple):
    """How a sentence encoder makes one vector of a window, as its folder says."""

    pooling: str
    normalise: bool
    max_length: int
    lower_case: bool


class PooledEncoder(nn.Module):
    """A backbone without gradients whose last hidden states are pooled over the real tokens: (n,
    length) to (n, width)."""

    def __init__(self, backbone: nn.Module, settings: Settings) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.pooling, self.normalise = settings.pooling, settings.normalise

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state.float()
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        elif self.pooling == "max":
            pooled = hidden.masked_fill(attention_mask[..., None] == 0, -torch.inf).amax(dim=1)
        else:
            pooled = masked_mean(hidden, attention_mask)
        return nn.functional.normalize(pooled, dim=-1) if self.normalise else pooled


class FrozenEncoder:
    """Texts in, vectors out; nothing here learns.

    Parameters
    ----------
    name : str
        A sentence-transformer folder, a plain encoder's folder, or a hub name. From a
        sentence-transformer the pooling, the normalisation and the maximal length are taken; for a
        plain encoder it is the mean over the tokens.
    max_length : int, optional
        Tokens per window, special tokens included; without it the folder's.

    Attributes
    ----------
    digest : str
        Of the weights, the vocabulary and the settings: equal for encoders that give equal vectors.
    width : int
        Of a vector.

    Raises
    ------
    InputError
        If the folder lacks something, or holds what is not understood here.
    """

    def __init__(self, name: str, max_length: int | None = None) -> None:
        place = local_folder(name)
        modules = modules_of(place)
        # Older sentence-transformers keep the weights in a folder inside.
        folder = place / modules.get("Transformer", "")
        self.tokenizer = load_tokenizer(str(folder))
        backbone = load_backbone(str(folder))
        # The pooler (tanh over the first token) has no part in this.
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None
        self.settings = _settings(
            place, folder, modules, max_length, backbone.config, self.tokenizer
        )
        check_encoder(backbone, self.tokenizer, name, self.settings.max_length)
        self.module = PooledEncoder(backbone, self.settings)
        self.width = backbone.config.hidden_size
        self.digest = self._digest()

    def embed(
        self, texts: Iterable[str], max_windows: int, batch_tokens: int, precision: str
    ) -> dict[str, Windows]:
        """The windows of each distinct text.

        The texts' order changes nothing: they are sorted, so that the same set makes the same
        batches. What this process has embedded before is not computed again, within `MEMO_BYTES`.

        Parameters
        ----------
        texts : iterable of str
            n texts.
        max_windows : int
            At most so many windows of a text; beyond, half from its head and half from its tail.
        batch_tokens, precision
            As in the configuration's `inference`.
        """
        distinct = sorted(set(texts))
        memo = _memo_of(self.digest, max_windows, precision)
        known = {text: memo.windows[text] for text in distinct if text in memo.windows}
        new = [text for text in distinct if text not in known]
        made = self._embed(new, max_windows, batch_tokens, precision)
        for text, windows in zip(new, made, strict=True):
            memo.keep(text, windows)
        return known | dict(zip(new, made, strict=True))

    def save(self, folder: Path) -> None:
        """Write a sentence-transformer folder that gives the same vectors."""
        self.module.backbone.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        kinds = ["Transformer", "Pooling", *(["Normalize"] if self.settings.normalise else [])]
        paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
        modules = [
            {
                "idx": i,
                "name": str(i),
                "path": paths[kind],
                "type": f"sentence_transformers.models.{kind}",
            }
            for i, kind in enumerate(kinds)
        ]
        write_json(folder / "modules.json", modules)
        (folder / paths["Pooling"]).mkdir()
        flags = {flag: mode == self.settings.pooling for flag, mode in POOLING_FLAGS.items()}
        write_json(
            folder / paths["Pooling"] / "config.json",
            {"word_embedding_dimension": self.width} | flags,
        )
        lengths = {
            "max_seq_length": self.settings.max_length,
            "do_lower_case": self.settings.lower_case,
        }
        write_json(folder / "sentence_bert_config.json", lengths)

    def facts(self, name: str) -> dict[str, Any]:
        """What was really used, as plain JSON types; `name` is what it was loaded by."""
        config = self.module.backbone.config
        return {
            "name": Path(name).resolve().name if Path(name).is_dir() else name,
            "model_type": config.model_type,
            "hidden_size": self.width,
            "layers": config.num_hidden_layers,
            "vocabulary": config.vocab_size,
            "parameters": sum(p.numel() for p in self.module.parameters()),
            "digest": self.digest,
            **self.settings._asdict(),
        }

    def _embed(
        self, texts: list[str], max_windows: int, batch_tokens: int, precision: str
    ) -> list[Windows]:
        template = template_of(self.tokenizer)
        room = self.settings.max_length - len(template.prefix) - len(template.suffix)
        pieces = [split(ids, room, max_windows) for ids in self._token_ids(texts)]
        flat = [[*template.prefix, *piece, *template.suffix] for text in pieces for piece in text]
        empty = Windows(np.zeros((1, self.width), dtype=np.float32), np.ones(1))
        if not flat:
            return [empty] * len(texts)
        lengths = np.array([len(ids) for ids in flat])

        def collate(rows: np.ndarray) -> dict[str, Tensor]:
            batch = np.full(
                (len(rows), lengths[rows].max()), self.tokenizer.pad_token_id, dtype=np.int64
            )
            for i, row in enumerate(rows):
                batch[i, : lengths[row]] = flat[row]
            mask = np.arange(batch.shape[1]) < lengths[rows][:, None]
            return {
                "input_ids": torch.from_numpy(batch),
                "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            }

        vectors = predict_logits(self.module, collate, lengths, batch_tokens, precision).astype(
            np.float32
        )
        made, start = [], 0
        for text in pieces:
            end = start + len(text)
            own = np.array([len(piece) for piece in text], dtype=np.float64)
            # A copy: a view would keep the vectors of all texts in memory.
            made.append(Windows(vectors[start:end].copy(), own) if text else empty)
            start = end
        return made

    def _token_ids(self, texts: list[str]) -> Iterable[list[int]]:
        for start in range(0, len(texts), BATCH_TEXTS):
            part = [
                text.lower() if self.settings.lower_case else text
                for text in texts[start : start + BATCH_TEXTS]
            ]
            yield from text_ids(part, self.tokenizer)

    def _digest(self) -> str:
        config = self.module.backbone.config.to_dict()
        described = {
            "settings": self.settings,
            "config": {key: value for key, value in config.items() if key not in _UNRELATED},
            "vocabulary": sorted(self.tokenizer.get_vocab().items()),
            # What a tokenizer does besides: its normaliser and the rest show in the ids of each
            # character.
            "ids": list(self._token_ids(_characters())),
            "template": template_of(self.tokenizer),
        }
        digest = hashlib.sha256(
            json.dumps(described, sort_keys=True).encode("utf-8", "surrogatepass")
        )
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy())
        return digest.hexdigest()


# What a configuration says about itself; it changes where the same model is saved again.
_UNRELATED = ("_name_or_path", "architectures", "dtype", "transformers_version")


def _characters() -> list[str]:
    """Every character of two bytes, in texts of 256, apart and side by side."""
    rows = [[chr(code) for code in range(start, start + 256)] for start in range(0, 0x10000, 256)]
    return [
        glue.join(row) for row in rows if not "\ud800" <= row[0] <= "\udfff" for glue in (" ", "")
    ]


def load_frozen(
    name: str, max_length: int | None = None, digest: str | None = None
) -> FrozenEncoder:
    """A frozen encoder; one that is equal to it and still in use is given instead, so that fold
    models share their weights.

    Parameters
    ----------
    name : str
        Folder or hub name.
    max_length : int, optional
        See `FrozenEncoder`.
    digest : str, optional
        What the encoder's digest has to be.

    Raises
    ------
    InputError
        If it cannot be loaded, or is another one.
    """
    encoder = FrozenEncoder(name, max_length)
    if digest not in (None, encoder.digest):
        raise InputError(
            f"backbone {name}: other weights, tokens or settings than the model was trained on "
            f"(expected digest {digest[:12]}, got {encoder.digest[:12]})"
        )
    return _IN_USE.setdefault(encoder.digest, encoder)


_IN_USE: weakref.WeakValueDictionary[str, FrozenEncoder] = weakref.WeakValueDictionary()


def split(ids: list[int], room: int, max_windows: int) -> list[list[int]]:
    """At most `max_windows` windows of at most `room` ids each, of equal lengths to one; a longer
    text loses its middle.

    300 ids make two windows of 150, not one of 254 and a remainder that says little.
    """
    kept = cut_middle(ids, room * max_windows)
    count = -(-len(kept) // room)
    bounds = [len(kept) * i // count for i in range(count + 1)] if count else []
    return [kept[start:end] for start, end in pairwise(bounds)]


class _Memo:
    """The vectors of one encoder under one set of options; when it is full it keeps what it has."""

    def __init__(self, key: tuple[Any, ...]) -> None:
        self.key, self.windows, self.bytes = key, {}, 0

    def keep(self, text: str, windows: Windows) -> None:
        size = windows.vectors.nbytes + windows.tokens.nbytes + 4 * len(text)
        if self.bytes + size <= MEMO_BYTES:
            self.windows[text] = windows
            self.bytes += size


_memo = _Memo(())


def _memo_of(*key: Any) -> _Memo:
    """The memo of these options; that of others is let go."""
    global _memo
    if _memo.key != key:
        _memo = _Memo(key)
    return _memo


def modules_of(folder: Path) -> dict[str, str]:
    """The sentence-transformer's modules and their folders; nothing for a plain encoder.

    Raises
    ------
    InputError
        If there are others than those that are understood here.
    """
    listed = _optional_json(folder / "modules.json", [])
    try:
        modules = {module["type"].rpartition(".")[2]: module["path"] for module in listed}
        inside = all(
            (folder / path).resolve().is_relative_to(folder.resolve()) for path in modules.values()
        )
    except (TypeError, KeyError, AttributeError):
        inside = False
    if not inside:
        raise InputError(
            f"{folder / 'modules.json'}: expected a list of modules with type and path"
        )
    if list(modules) not in (
        [],
        ["Transformer", "Pooling"],
        ["Transformer", "Pooling", "Normalize"],
    ):
        raise InputError(
            f"{folder / 'modules.json'}: expected Transformer, Pooling and perhaps Normalize, got "
            f"{', '.join(modules)}"
        )
    return modules


def _settings(
    place: Path,
    folder: Path,
    modules: dict[str, str],
    max_length: int | None,
    config: Any,
    tokenizer: Any,
) -> Settings:
    # Its name has the backbone's type in it in folders of early versions.
    path = min(folder.glob("sentence_*_config.json"), default=folder / "sentence_bert_config.json")
    options = _optional_json(path, {})
    changes = [
        key for key, value in options.items() if key.endswith(("_args", "_kwargs")) and value
    ]
    if options.get("transformer_task", "feature-extraction") != "feature-extraction":
        changes.append("transformer_task")
    if changes:
        raise InputError(
            f"{path}: key {changes[0]!r}: {options[changes[0]]!r} is not understood here"
        )
    known = (tokenizer.model_max_length, getattr(config, "max_position_embeddings", None))
    # transformers has a very large number for a tokenizer that does not know.
    lengths = [length for length in known if length and length < 10**6] or [LONGEST]
    longest = options.get("max_seq_length") or min(lengths if modules else [LONGEST, *lengths])
    pooling = "mean"
    if modules:
        pooling = _pooling(place / modules["Pooling"] / "config.json")
        path = place / "config_sentence_transformers.json"
        prompt = _optional_json(path, {}).get("default_prompt_name")
        if prompt is not None:
            raise InputError(
                f"{path}: default_prompt_name {prompt!r}: texts are read without a prompt here; "
                "set it to null"
            )
    return Settings(
        pooling, "Normalize" in modules, max_length or longest, bool(options.get("do_lower_case"))
    )


def _pooling(path: Path) -> str:
    options = _optional_json(path, {})
    flags = [
        POOLING_FLAGS.get(key, key)
        for key in options
        if key.startswith("pooling_mode_") and options[key] is True
    ]
    modes = options.get("pooling_mode", flags)
    modes = [modes] if isinstance(modes, str) else modes
    if not (isinstance(modes, list) and len(modes) == 1 and modes[0] in POOLING_FLAGS.values()):
        found = ", ".join(map(str, modes)) if isinstance(modes, list) else modes
        known = ", ".join(POOLING_FLAGS.values())
        raise InputError(f"{path}: expected one pooling mode of {known}, got {found or 'none'}")
    return modes[0]


def _optional_json(path: Path, default: Any) -> Any:
    """What a JSON file holds, of the kind of `default`, which stands for a file that is not
    there."""
    found = read_json(path) if path.is_file() else default
    if not isinstance(found, type(default)):
        raise InputError(
            f"{path}: expected a JSON {'list' if default == [] else 'object'}, got {found!r}"
        )
    return found
