"""Turn labeled texts into token ids within a maximum length, with a guaranteed share for every part
and for the last turn."""

import itertools
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from humanpref.schema import InputError, refuse_failures
from humanpref.text.format import PROMPT, A, B, Sequence

logger = logging.getLogger(__name__)

BATCH_TEXTS = 1_000
SPECIAL = 0
"""The part number of special tokens, in addition to those in `humanpref.text.format`."""


class Template(NamedTuple):
    """The fixed tokens of a sequence.

    Attributes
    ----------
    prefix, suffix : list of int
        The tokens before the first text, and after the last.
    before : dict
        The tokens before each later text, by the text's part.
    types : (int, int)
        The token types of the prompt and of the responses.
    """

    prefix: list[int]
    before: dict[int, list[int]]
    suffix: list[int]
    types: tuple[int, int] = (0, 0)

    def between(self, sequence: Sequence) -> int:
        """Return the number of fixed tokens between the texts of a sequence."""
        return sum(len(self.before[segment.part]) for segment in sequence[1:])

    def around(self) -> int:
        """Return the number of fixed tokens before the first text and after the last."""
        return len(self.prefix) + len(self.suffix)


class Tokenised(NamedTuple):
    """One sequence: token ids, token types and parts, each (length,) int32, and whether any text
    was cut."""

    ids: np.ndarray
    types: np.ndarray
    parts: np.ndarray
    cut: bool


def template_of(tokenizer: Any) -> Template:
    """Find the special tokens (one separator or two) and the token types, if any, that a tokenizer
    adds to a pair of texts."""
    first, second = (tokenizer(text, add_special_tokens=False).input_ids for text in "ab")
    pair = tokenizer("a", "b", return_token_type_ids=True)
    ids = list(pair.input_ids)
    start = find(ids, first, 0)
    between = find(ids, second, start + len(first))
    types = pair.get("token_type_ids") or [0] * len(ids)
    separator = ids[start + len(first) : between]
    return Template(
        ids[:start],
        dict.fromkeys((PROMPT, A, B), separator),
        ids[between + len(second) :],
        (types[start], types[between]),
    )


def tokenise(
    sequences: list[Sequence],
    tokenizer: Any,
    max_length: int,
    prompt_share: float,
    truncation: str = "parts",
    template: Template | None = None,
    read: Callable[[list[str]], list[np.ndarray]] | None = None,
) -> list[Tokenised]:
    """Turn each sequence into token ids: its texts in order, with fixed tokens around and between
    them.

    A text that spells out a special token ("<|eot_id|>", "[SEP]") is not turned into that token.

    With `truncation="parts"`, a sequence that is too long is cut text by text. The prompt is
    guaranteed `prompt_share` of the available tokens, and the responses share the rest equally.
    Within a part, the last turn is guaranteed half. Tokens that a text does not need go to the
    others. Texts are cut in the middle, since the beginning and the end say the most. With
    `truncation="end"`, the end of the sequence is cut off, as in the report.

    Parameters
    ----------
    sequences : list of Sequence
        n sequences.
    tokenizer : transformers tokenizer
        Any tokenizer that supports `tokenizer(text, pair)`.
    max_length : int
        Maximum tokens per sequence, including special tokens.
    prompt_share : float
        In (0, 1).
    truncation : str
        `parts` or `end`.
    template : Template, optional
        The fixed tokens. By default, the tokenizer's special tokens around a pair.
    read : callable, optional
        Returns the token ids of texts under this tokenizer; by default, `token_ids`. A `TokenMemo`
        remembers them.

    Returns
    -------
    list of Tokenised
        n sequences of at most `max_length` tokens, in order.
    """
    template = template or template_of(tokenizer)
    texts = [segment.text for sequence in sequences for segment in sequence]
    read = read or partial(token_ids, tokenizer=tokenizer)
    known = dict(zip(texts, read(texts), strict=True))
    tokenised = []
    for sequence in sequences:
        if truncation == "end":
            *arrays, _ = _join(sequence, [known[text] for _, text in sequence], template, False)
            cut = len(arrays[0]) > max_length
            tokenised.append(Tokenised(*(array[:max_length] for array in arrays), cut))
            continue
        kept = _last_rounds(sequence, template, max_length)
        ids = [known[text] for _, text in kept]
        room = max_length - template.around() - template.between(kept)
        limits = _limits(kept, list(map(len, ids)), room, prompt_share)
        shorter = list(map(cut_middle, ids, limits))
        cut = len(kept) < len(sequence) or sum(map(len, shorter)) < sum(map(len, ids))
        tokenised.append(_join(kept, shorter, template, cut))
    if len(tokenised) > 2:  # not for the single row with which a model is tried out
        logger.info(
            "tokens: %d sequences, %.0f tokens on average, %.1f %% cut to %d",
            len(tokenised),
            np.mean([len(sequence.ids) for sequence in tokenised]),
            100 * np.mean([sequence.cut for sequence in tokenised]),
            max_length,
        )
    return tokenised


def allocate(needs: list[int], shares: list[float], room: int) -> list[int]:
    """Divide `room` tokens among several claimants: each gets as many as it needs up to its share,
    and tokens that some do not need go to the others.

    Parameters
    ----------
    needs : list of int
        Number of tokens that each claimant could use.
    shares : list of float
        Relative shares, above 0.
    room : int
        Number of tokens to divide.

    Returns
    -------
    list of int
        Tokens for each claimant, at most its need. Their sum is `sum(needs)` or `room`, whichever
        is less.

    Examples
    --------
    >>> allocate([200, 35, 200], [0.2, 0.4, 0.4], 100)
    [22, 35, 43]
    """
    limits = [0] * len(needs)
    waiting = [i for i, need in enumerate(needs) if need > 0]
    left = max(0, room)
    while waiting:
        total = sum(shares[i] for i in waiting)
        modest = [i for i in waiting if needs[i] <= left * shares[i] / total]
        if not modest:
            # All remaining claimants need more than their share; tokens lost to rounding go to the
            # first ones.
            for i in waiting:
                limits[i] = int(left * shares[i] / total)
            for i in waiting[: left - sum(limits[i] for i in waiting)]:
                limits[i] += 1
            break
        for i in modest:
            limits[i] = needs[i]
            left -= needs[i]
            waiting.remove(i)
    return limits


def cut_middle(ids: np.ndarray, limit: int) -> np.ndarray:
    """Keep at most `limit` ids: the first half from the start, the rest from the end.

    Examples
    --------
    >>> cut_middle(np.arange(9), 5)
    array([0, 1, 2, 7, 8])
    """
    if len(ids) <= limit:
        return ids
    head = (limit + 1) // 2
    return np.concatenate([ids[:head], ids[len(ids) - (limit - head) :]])


def _limits(sequence: Sequence, lengths: list[int], room: int, prompt_share: float) -> list[int]:
    """Divide `room` tokens among the texts of a sequence, as `tokenise` describes. Return each
    text's maximum number of tokens."""
    parts = len({part for part, _ in sequence})
    turns = [lengths[part::parts] for part in range(parts)]
    shares = [prompt_share, *[(1 - prompt_share) / (parts - 1)] * (parts - 1)]
    # The last turn weighs as much as all earlier turns together.
    earlier = len(turns[0]) - 1
    weights = [1.0] * earlier + [max(1.0, earlier)]
    rooms = allocate(list(map(sum, turns)), shares, room)
    limits = [allocate(own, weights, limit) for own, limit in zip(turns, rooms, strict=True)]
    return list(itertools.chain(*zip(*limits, strict=True)))


def _last_rounds(sequence: Sequence, template: Template, max_length: int) -> Sequence:
    """Drop the first rounds of a conversation until the fixed tokens between its texts take up at
    most half of the available tokens."""
    size, room = len({part for part, _ in sequence}), max_length - template.around()
    while len(sequence) > size and template.between(sequence) > room // 2:
        sequence = sequence[size:]
    return sequence


def _join(sequence: Sequence, ids: list[np.ndarray], template: Template, cut: bool) -> Tokenised:
    pieces = [(template.prefix, template.types[0], SPECIAL)]
    for i, (segment, own) in enumerate(zip(sequence, ids, strict=True)):
        after = template.suffix if i == len(sequence) - 1 else template.before[sequence[i + 1].part]
        kind = template.types[segment.part != PROMPT]
        pieces += [(own, kind, segment.part), (after, kind, SPECIAL)]
    tokens, *constants = zip(*pieces, strict=True)
    sizes = [len(piece) for piece in tokens]
    types, parts = (np.repeat(np.array(values, dtype=np.int32), sizes) for values in constants)
    return Tokenised(np.concatenate(tokens).astype(np.int32), types, parts, cut)


def token_ids(texts: list[str], tokenizer: Any) -> list[np.ndarray]:
    """Return the token ids of each text, int32, without special tokens; equal texts are tokenized
    once."""
    new = list(dict.fromkeys(texts))
    known: dict[str, np.ndarray] = {}
    for start in range(0, len(new), BATCH_TEXTS):
        part = new[start : start + BATCH_TEXTS]
        ids = (np.array(ids, dtype=np.int32) for ids in text_ids(part, tokenizer))
        known.update(zip(part, ids, strict=True))
    return [known[text] for text in texts]


def text_ids(texts: Iterable[str], tokenizer: Any) -> list[list[int]]:
    """Tokenize texts without special tokens around or inside them: a text that spells out "[SEP]"
    is not given that token. Raises InputError if the tokenizer fails, as a damaged one does."""
    with refuse_failures(f"backbone {tokenizer.name_or_path}: its tokenizer fails"):
        ids = tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        ).input_ids
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special.discard(tokenizer.unk_token_id)
    # A Unigram model has special tokens in its vocabulary; replace each with its characters.
    spelled = {
        i: tokenizer.convert_tokens_to_ids(list(tokenizer.convert_ids_to_tokens(i)))
        for i in special.intersection(itertools.chain(*ids))
    }
    if not spelled:
        return ids
    return [[part for i in row for part in spelled.get(i, (i,))] for row in ids]


def find(ids: list[int], part: list[int], start: int) -> int:
    """Return the index of the first occurrence of `part` in `ids` at or after `start`."""
    for i in range(start, len(ids) - len(part) + 1):
        if ids[i : i + len(part)] == part:
            return i
    raise InputError(
        f"backbone: its tokenizer splits a text differently next to special tokens: {ids} does not "
        f"contain {part}"
    )
