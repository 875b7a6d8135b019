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
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor

from humanpref.models.backbone import check_encoder, load_backbone
from humanpref.models.pretrained import backbone_facts, load_tokenizer, local_folder
from humanpref.models.sentence_folder import (
    SentenceModule,
    Settings,
    load_modules,
    longest_window,
    modules_of,
)
from humanpref.schema import InputError
from humanpref.text.tokens import BATCH_TEXTS, cut_middle, template_of, text_ids
from humanpref.training.predict import predict_logits

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
        folder = str(modules[0][1] if modules else place)
        self.tokenizer, backbone = load_tokenizer(folder), load_backbone(folder)
        # The pooler (tanh over the first token) has no part in this.
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None
        after = load_modules(modules[1:]) or [Pooling(backbone.config.hidden_size, "mean")]
        self.module = SentenceModule(backbone, after)
        longest, lower_case = longest_window(place, modules, backbone.config, self.tokenizer)
        self.settings = Settings(self.module.described(), max_length or longest, lower_case)
        self.width = check_encoder(
            backbone,
            self.tokenizer,
            name,
            self.settings.max_length,
            self.module if modules else None,
        )
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
        self.module.save(folder, self.settings)
        self.tokenizer.save_pretrained(folder)

    def facts(self, name: str) -> dict[str, Any]:
        """What was really used, as plain JSON types; `name` is what it was loaded by."""
        facts = backbone_facts(name, self.module.backbone)
        own = {"width": self.width, "digest": self.digest}
        return facts | own | self.settings._asdict()

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
