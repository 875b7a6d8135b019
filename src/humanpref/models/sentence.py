"""A frozen sentence encoder (any sentence-transformer folder, or any Hugging Face encoder), and the
vectors that it computes for texts.

A text that is too long for the encoder is split into windows of nearly equal length, each with its
own vector. Comparisons use the mean of the windows or attend to them individually. A very long text
keeps only its head and its tail, in equal parts. An instruction precedes every window.
"""

import hashlib
import json
import logging
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from humanpref.models.backbone import check_encoder, is_decoder, load_backbone
from humanpref.models.checkpoint import stamps
from humanpref.models.pretrained import backbone_facts, load_tokenizer, local_folder
from humanpref.models.sentence_folder import (
    Instructions,
    Prompts,
    SentenceModule,
    Settings,
    load_modules,
    longest_window,
    modules_of,
)
from humanpref.models.sentence_windows import Passage, Splitter
from humanpref.schema import InputError
from humanpref.text.tokens import template_of
from humanpref.training.inputs import Collate
from humanpref.training.precision import DTYPES, process_state, resolve
from humanpref.training.predict import predict_logits

logger = logging.getLogger(__name__)

MEMO_BYTES = 2**31
"""Maximum size of `memo`, in bytes. The competition's 57,477 rows take about 1.4 GB with vectors of
width 1,024."""


class Windows(NamedTuple):
    """The windows of one text: their vectors, (windows, width) float32, and their token counts,
    (windows,) float64.

    A text without tokens has one window with a zero vector.
    """

    vectors: np.ndarray
    tokens: np.ndarray


class Memo:
    """A cache of the embedded windows of texts, of at most `MEMO_BYTES`. At any time, all of them
    come from one encoder with one set of options."""

    def __init__(self) -> None:
        self.clear()

    def clear(self, options: tuple[Any, ...] = ()) -> None:
        """Empty the memo. From now on, it holds vectors that were computed with these options."""
        self.options, self.bytes = options, 0
        self.windows: dict[Passage, Windows] = {}

    def keep(self, passage: Passage, windows: Windows) -> None:
        """Remember a text's windows unless the memo is full."""
        size = windows.vectors.nbytes + windows.tokens.nbytes + 4 * len(passage.text)
        if self.bytes + size <= MEMO_BYTES:
            self.windows[passage] = windows
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
        Maximum number of tokens per window, instruction and special tokens included; by default,
        the folder's value.
    prompt_instruction, response_instruction : str, optional
        See `humanpref.config.cpu.EmbeddingOptions`.

    Attributes
    ----------
    instructions : Instructions
        The texts of both instructions.
    digest : str
        Digest of the weights, the vocabulary, the settings and the instructions. Encoders with
        equal digests give equal vectors.
    width : int
        Width of a vector.

    Raises
    ------
    InputError
        If the folder is incomplete or contains something unsupported, or if an instruction is
        unknown, too long, or contains a special token.
    """

    def __init__(
        self,
        name: str,
        max_length: int | None = None,
        prompt_instruction: str | None = None,
        response_instruction: str | None = None,
    ) -> None:
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
        self._prompts = Prompts.of(place) if modules else Prompts({}, None)
        self.instructions = Instructions(
            self._prompts.chosen("prompt_instruction", prompt_instruction),
            self._prompts.chosen("response_instruction", response_instruction),
        )
        self._splitter = Splitter(self.tokenizer, length, lower_case, self.instructions)
        self._halved: tuple[torch.dtype, SentenceModule] | None = None
        self.digest = self._digest()

    def embed(
        self, passages: Iterable[Passage], max_windows: int, batch_tokens: int, precision: str
    ) -> dict[Passage, Windows]:
        """Return the windows of each distinct passage.

        The order of the texts does not matter: they are sorted, so the same set gives the same
        batches. Texts in `memo` are not computed again.

        Parameters
        ----------
        passages : iterable of Passage
            Texts, each with one of `instructions` or none.
        max_windows : int
            Maximum number of windows per text; a longer text keeps half of them from its head and
            half from its tail.
        batch_tokens, precision
            See the section `inference` of the configuration.
        """
        options = (self.digest, max_windows, precision)
        if memo.options != options:
            memo.clear(options)
        distinct = sorted(set(passages))
        known = {each: memo.windows[each] for each in distinct if each in memo.windows}
        new = [each for each in distinct if each not in known]
        embedded = self._embed(new, max_windows, batch_tokens, precision)
        for passage, windows in zip(new, embedded, strict=True):
            memo.keep(passage, windows)
            known[passage] = windows
        return known

    def is_cut(self, passages: list[Passage], max_windows: int) -> np.ndarray:
        """Return a mask, (n,) bool, of the passages that do not fit into `max_windows` windows."""
        return self._splitter.is_cut(passages, max_windows)

    def save(self, folder: Path) -> None:
        """Write the encoder as a sentence-transformer folder, which gives the same vectors when it
        is loaded."""
        self.module.cpu().save(folder, self.settings)
        self.tokenizer.save_pretrained(folder)
        if self._prompts.texts:
            self._prompts.save(folder)

    def facts(self, name: str) -> dict[str, Any]:
        """Return the encoder's properties as plain JSON types; `name` is the folder or hub name
        from which it was loaded."""
        return {
            **backbone_facts(name, self.module.backbone),
            "width": self.width,
            "digest": self.digest,
            **self.settings._asdict(),
            **({"instructions": self.instructions._asdict()} if any(self.instructions) else {}),
        }

    def _embed(
        self, passages: list[Passage], max_windows: int, batch_tokens: int, precision: str
    ) -> list[Windows]:
        windows, counts, leads = self._splitter.rows(passages, max_windows)
        whole = self.module.after[0].include_prompt

        def collate(rows: np.ndarray) -> dict[str, Tensor]:
            ids = [torch.tensor(windows[row]) for row in rows]
            pad = self.tokenizer.pad_token_id
            mask = pad_sequence(list(map(torch.ones_like, ids)), batch_first=True)
            batch = {
                "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad),
                "attention_mask": mask,
            }
            if not whole and leads[rows].any():
                starts = torch.from_numpy(leads[rows])[:, None]
                batch["pooled_mask"] = mask * (torch.arange(mask.shape[1]) >= starts)
            return batch

        lengths = np.array([len(ids) for ids in windows], dtype=np.int64)
        vectors = self._vectors(collate, lengths, batch_tokens, precision)
        embedded, end = [], 0
        for tokens in counts:
            start, end = end, end + len(tokens)
            # Copy the vectors, since a view would keep those of all texts in memory.
            own = vectors[start:end].astype(np.float32)
            embedded.append(Windows(own, np.array(tokens, dtype=np.float64)))
        empty = Windows(np.zeros((1, self.width), dtype=np.float32), np.ones(1))
        return [own if len(own.tokens) else empty for own in embedded]

    def _vectors(
        self, collate: Collate, lengths: np.ndarray, batch_tokens: int, precision: str
    ) -> np.ndarray:
        """Compute the vectors of windows, (n, width) float64. Windows that overflow in half
        precision are computed again in float32."""
        module, device = self.module, process_state().device
        dtype = DTYPES.get(resolve(precision, device, "inference.precision"))
        if dtype and device.type == "cuda" and is_decoder(module.backbone.config):
            if self._halved is None or self._halved[0] != dtype:
                self._halved = dtype, module.halved(dtype, device)
            module = self._halved[1]
        vectors = predict_logits(module, collate, lengths, batch_tokens, precision, "embed")
        lost = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if dtype and len(lost):
            logger.warning(
                "windows that overflow in %s and are embedded in float32: %d of %d",
                *(dtype, len(lost), len(vectors)),
            )
            vectors[lost] = predict_logits(
                self.module, lambda rows: collate(lost[rows]), lengths[lost], batch_tokens, "no"
            )
        if not np.isfinite(vectors).all():
            raise InputError("option model.backbone: vectors of some texts are not finite")
        return vectors

    def _digest(self) -> str:
        config = self.module.backbone.config.to_dict()
        template = template_of(self.tokenizer)
        described = {
            "settings": self.settings,
            "config": {key: value for key, value in config.items() if key not in _UNRELATED},
            "vocabulary": sorted(self.tokenizer.get_vocab().items()),
            # The token ids of every character reflect the tokenizer's normalizer and its other
            # steps.
            "ids": list(self._splitter.token_ids(_characters())),
            "template": template,
        }
        # These entries are added only if they are not the default, so that encoders without
        # instructions keep the digests that they had before there were instructions.
        ends = self._splitter.before, self._splitter.after
        if ends != (template.prefix, template.suffix):
            described["ends"] = ends
        if any(self.instructions):
            described["instructions"] = self.instructions
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
    name: str,
    max_length: int | None = None,
    prompt_instruction: str | None = None,
    response_instruction: str | None = None,
    digest: str | None = None,
) -> FrozenEncoder:
    """Load a frozen encoder, or return an equal one that is still in use, so that several models
    share one copy of the weights.

    Parameters
    ----------
    name : str
        Folder or hub name.
    max_length, prompt_instruction, response_instruction
        See `FrozenEncoder`.
    digest : str, optional
        The expected digest.

    Raises
    ------
    InputError
        If the encoder cannot be loaded, or has a different digest.
    """
    options = max_length, prompt_instruction, response_instruction
    # A large encoder takes minutes to load and as much memory again: do not load it a second time
    # while its files are unchanged.
    files = filter(Path.is_file, sorted(local_folder(name).resolve().rglob("*")))
    key = (stamps(files), *options)
    encoder = _OPENED.get(key) or FrozenEncoder(name, *options)
    if digest not in (None, encoder.digest):
        raise InputError(
            f"backbone {name}: its weights, tokens or settings differ from those used in training: "
            f"expected digest {digest[:12]}, got {encoder.digest[:12]}"
        )
    _OPENED[key] = encoder = _IN_USE.setdefault(encoder.digest, encoder)
    return encoder


_IN_USE: weakref.WeakValueDictionary[str, FrozenEncoder] = weakref.WeakValueDictionary()
_OPENED: weakref.WeakValueDictionary[tuple[Any, ...], FrozenEncoder] = weakref.WeakValueDictionary()
