"""A frozen sentence encoder (any sentence-transformer folder, or any Hugging Face encoder), and the
vectors that it computes for texts.

A text that is too long for the encoder is split into windows of nearly equal length, each with its
own vector. Comparisons use the mean of the windows or attend to them individually. A very long text
keeps only its head and its tail, in equal parts.
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
from torch.nn.utils.rnn import pad_sequence

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
"""Maximum size of `memo`, in bytes."""


class Windows(NamedTuple):
    """The windows of one text: their vectors, (windows, width) float32, and their token counts,
    (windows,) float64.

    A text without tokens has one window with a zero vector.
    """

    vectors: np.ndarray
    tokens: np.ndarray


class Memo:
    """A cache of texts' windows, up to `MEMO_BYTES`. All of them come from one encoder with one set
    of options."""

    def __init__(self) -> None:
        self.clear()

    def clear(self, options: tuple[Any, ...] = ()) -> None:
        """Forget all texts, and use the memo for these options from now on."""
        self.options, self.bytes = options, 0
        self.windows: dict[str, Windows] = {}

    def keep(self, text: str, windows: Windows) -> None:
        """Remember a text's windows unless the memo is full."""
        size = windows.vectors.nbytes + windows.tokens.nbytes + 4 * len(text)
        if self.bytes + size <= MEMO_BYTES:
            self.windows[text] = windows
            self.bytes += size


memo = Memo()
"""The cache that all models in this process share, so that a text need not be embedded again."""


class FrozenEncoder:
    """An encoder that turns texts into vectors. None of its weights are trained.

    Parameters
    ----------
    name : str
        A sentence-transformer folder, a plain encoder's folder, or a hub name. A
        sentence-transformer has its own pooling, normalization and maximum length; a plain encoder
        is mean-pooled over the tokens.
    max_length : int, optional
        Maximum number of tokens per window, special tokens included; by default, the folder's
        value.

    Attributes
    ----------
    digest : str
        Digest of the weights, the vocabulary and the settings. Encoders with equal digests give
        equal vectors.
    width : int
        Width of a vector.

    Raises
    ------
    InputError
        If the folder is incomplete or contains something unsupported.
    """

    def __init__(self, name: str, max_length: int | None = None) -> None:
        place = local_folder(name)
        modules = modules_of(place)
        # Older sentence-transformers keep the weights in a subfolder.
        folder = str(modules[0][1] if modules else place)
        self.tokenizer, backbone = load_tokenizer(folder), load_backbone(folder)
        # The pooler (tanh over the first token) is not used.
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None
        after = load_modules(modules[1:]) or [Pooling(backbone.config.hidden_size, "mean")]
        self.module = SentenceModule(backbone, after)
        longest, lower_case = longest_window(place, modules, backbone.config, self.tokenizer)
        self.settings = Settings(self.module.described(), max_length or longest, lower_case)
        embed = self.module if modules else None
        length = self.settings.max_length
        self.width = check_encoder(backbone, self.tokenizer, name, length, embed)
        self.digest = self._digest()

    def embed(
        self, texts: Iterable[str], max_windows: int, batch_tokens: int, precision: str
    ) -> dict[str, Windows]:
        """Return the windows of each distinct text, by text.

        The order of the texts does not matter: they are sorted, so the same set gives the same
        batches. Texts in `memo` are not computed again.

        Parameters
        ----------
        texts : iterable of str
            n texts.
        max_windows : int
            Maximum number of windows per text; a longer text keeps half of them from its head and
            half from its tail.
        batch_tokens, precision
            See the section `inference` of the configuration.
        """
        options = (self.digest, max_windows, precision)
        if memo.options != options:
            memo.clear(options)
        distinct = sorted(set(texts))
        known = {text: memo.windows[text] for text in distinct if text in memo.windows}
        new = [text for text in distinct if text not in known]
        embedded = self._embed(new, max_windows, batch_tokens, precision)
        for text, windows in zip(new, embedded, strict=True):
            memo.keep(text, windows)
            known[text] = windows
        return known

    def is_cut(self, texts: list[str], max_windows: int) -> np.ndarray:
        """Return a mask, (n,) bool, of the texts that do not fit into `max_windows` windows."""
        template = template_of(self.tokenizer)
        room = self.settings.max_length - len(template.prefix) - len(template.suffix)
        return np.array([len(ids) > room * max_windows for ids in self._token_ids(texts)], bool)

    def save(self, folder: Path) -> None:
        """Write the encoder as a sentence-transformer folder, which gives the same vectors when it
        is loaded."""
        self.module.save(folder, self.settings)
        self.tokenizer.save_pretrained(folder)

    def facts(self, name: str) -> dict[str, Any]:
        """Return the encoder's properties as plain JSON types; `name` is the folder or hub name
        from which it was loaded."""
        return {
            **backbone_facts(name, self.module.backbone),
            "width": self.width,
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

        def collate(rows: np.ndarray) -> dict[str, Tensor]:
            ids = [torch.tensor(flat[row]) for row in rows]
            pad = self.tokenizer.pad_token_id
            return {
                "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad),
                "attention_mask": pad_sequence(list(map(torch.ones_like, ids)), batch_first=True),
            }

        lengths = np.array([len(ids) for ids in flat], dtype=np.int64)
        vectors = predict_logits(self.module, collate, lengths, batch_tokens, precision)
        embedded, end = [], 0
        for text in pieces:
            start, end = end, end + len(text)
            tokens = np.array([len(piece) for piece in text], dtype=np.float64)
            # Copy the vectors, since a view would keep those of all texts in memory.
            embedded.append(Windows(vectors[start:end].astype(np.float32), tokens))
        empty = Windows(np.zeros((1, self.width), dtype=np.float32), np.ones(1))
        return [windows if len(windows.tokens) else empty for windows in embedded]

    def _token_ids(self, texts: list[str]) -> Iterable[list[int]]:
        if self.settings.lower_case:
            texts = [text.lower() for text in texts]
        for start in range(0, len(texts), BATCH_TEXTS):
            yield from text_ids(texts[start : start + BATCH_TEXTS], self.tokenizer)

    def _digest(self) -> str:
        config = self.module.backbone.config.to_dict()
        described = {
            "settings": self.settings,
            "config": {key: value for key, value in config.items() if key not in _UNRELATED},
            "vocabulary": sorted(self.tokenizer.get_vocab().items()),
            # The token ids of every character reflect the tokenizer's normalizer and its other
            # steps.
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


# Configuration keys that may change when the same model is saved again.
_UNRELATED = ("_name_or_path", "architectures", "dtype", "transformers_version")


def _characters() -> list[str]:
    """Return texts that contain every 16-bit character except the surrogates, 256 per text, once
    separated by spaces and once joined."""
    starts = [*range(0, 0xD800, 256), *range(0xE000, 0x10000, 256)]
    return [
        glue.join(map(chr, range(start, start + 256))) for start in starts for glue in (" ", "")
    ]


def load_frozen(
    name: str, max_length: int | None = None, digest: str | None = None
) -> FrozenEncoder:
    """Load a frozen encoder, or return an equal one that is still in use, so that fold models share
    one copy of its weights.

    Parameters
    ----------
    name : str
        Folder or hub name.
    max_length : int, optional
        See `FrozenEncoder`.
    digest : str, optional
        The expected digest.

    Raises
    ------
    InputError
        If the encoder cannot be loaded, or has a different digest.
    """
    encoder = FrozenEncoder(name, max_length)
    if digest not in (None, encoder.digest):
        raise InputError(
            f"backbone {name}: its weights, tokens or settings differ from those used in training: "
            f"expected digest {digest[:12]}, got {encoder.digest[:12]}"
        )
    return _IN_USE.setdefault(encoder.digest, encoder)


_IN_USE: weakref.WeakValueDictionary[str, FrozenEncoder] = weakref.WeakValueDictionary()


def split(ids: list[int], room: int, max_windows: int) -> list[list[int]]:
    """Split ids into at most `max_windows` windows of at most `room` ids each; the windows' lengths
    differ by at most one. If the ids do not fit, the middle ones are dropped.

    For example, if `room` is 254, 300 ids give two windows of 150, not one of 254 and an
    uninformative remainder.
    """
    kept = cut_middle(ids, room * max_windows)
    count = -(-len(kept) // room)
    bounds = [len(kept) * i // count for i in range(count + 1)] if count else []
    return [kept[start:end] for start, end in pairwise(bounds)]
