"""From labelled texts to token ids within a length, with a guaranteed share for every part and for
the last turn."""

import itertools
import logging
from typing import Any, NamedTuple

import numpy as np

from humanpref.schema import InputError
from humanpref.text.format import PROMPT, A, B, Sequence

logger = logging.getLogger(__name__)

BATCH_TEXTS = 1_000
SPECIAL = 0
"""The part number of special tokens; the others are those of `humanpref.text.format`."""


class Template(NamedTuple):
    """The fixed tokens of a sequence: before the first text, before each later one (by its part),
    and after the last.

    `types` are the token types of the prompt and of the responses.
    """

    prefix: list[int]
    before: dict[int, list[int]]
    suffix: list[int]
    types: tuple[int, int] = (0, 0)

    def between(self, sequence: Sequence) -> int:
        """Fixed tokens between the texts of a sequence."""
        return sum(len(self.before[segment.part]) for segment in sequence[1:])

    def around(self) -> int:
        """Fixed tokens before and after all texts."""
        return len(self.prefix) + len(self.suffix)


class Tokenised(NamedTuple):
    """One sequence: token ids, token types and parts, each (length,) int32, and whether anything
    was cut."""

    ids: np.ndarray
    types: np.ndarray
    parts: np.ndarray
    cut: bool


def template_of(tokenizer: Any) -> Template:
    """Read the special tokens of a pair off a tokenizer, whatever its family (one or two
    separators, types or none)."""
    first, second = (
        tokenizer("a", add_special_tokens=False).input_ids,
        tokenizer("b", add_special_tokens=False).input_ids,
    )
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
    known: dict[str, np.ndarray] | None = None,
) -> list[Tokenised]:
    """Token ids of each sequence: its segments in order, with fixed tokens around and between them.

    What a text says is text: one that spells a special token ("<|eot_id|>", "[SEP]") does not
    become that token.

    With `truncation="parts"` a sequence that is too long is cut segment by segment. The prompt is
    guaranteed `prompt_share` of the room and the responses the rest, in equal parts; within a part
    the last turn is guaranteed half; what one does not need goes to the others. A segment that is
    cut loses its middle: openings and endings say most. With `truncation="end"` the whole sequence
    loses its end, as where texts are concatenated first and truncated then (the report's way).

    Parameters
    ----------
    sequences : list of Sequence
        n sequences.
    tokenizer : transformers tokenizer
        Any with `tokenizer(text, pair)`.
    max_length : int
        Tokens per sequence, special tokens included.
    prompt_share : float
        In (0, 1).
    truncation : str
        `parts` or `end`.
    template : Template, optional
        The fixed tokens; by default the tokenizer's special tokens of a pair.
    known : dict, optional
        Token ids of texts that this tokenizer has read before; new ones are added.

    Returns
    -------
    list of Tokenised
        n sequences of at most `max_length` tokens, in order.
    """
    template = template or template_of(tokenizer)
    texts = [segment.text for sequence in sequences for segment in sequence]
    known = token_ids(texts, tokenizer, {} if known is None else known)
    made = []
    for sequence in sequences:
        kept = _last_rounds(sequence, template, max_length) if truncation == "parts" else sequence
        ids = [known[segment.text] for segment in kept]
        if truncation == "parts":
            room = max_length - template.around() - template.between(kept)
            limits = _limits(kept, [len(i) for i in ids], room, prompt_share)
            shorter = [cut_middle(i, limit) for i, limit in zip(ids, limits, strict=True)]
            cut = len(kept) < len(sequence) or sum(map(len, shorter)) < sum(map(len, ids))
            made.append(_join(kept, shorter, template, cut))
        else:
            whole = _join(kept, ids, template, cut=False)
            length = len(whole.ids)
            made.append(
                Tokenised(*(array[:max_length] for array in whole[:3]), length > max_length)
            )
    if made:
        cut, mean = np.mean([t.cut for t in made]), np.mean([len(t.ids) for t in made])
        logger.info(
            "tokens: %d sequences, %.0f tokens on average, %.1f %% cut to %d",
            len(made),
            mean,
            100 * cut,
            max_length,
        )
    return made


def allocate(needs: list[int], shares: list[float], room: int) -> list[int]:
    """Divide room among claimants: each gets what it needs or its share of the room, and what some
    leave over goes to the rest.

    Parameters
    ----------
    needs : list of int
        What each could use.
    shares : list of float
        Relative shares, above 0.
    room : int
        What there is.

    Returns
    -------
    list of int
        At most `needs`, in all at most `room`, and exactly `room` where the needs exceed it.
    """
    given = [0] * len(needs)
    open_ = [i for i, need in enumerate(needs) if need > 0]
    left = max(0, room)
    while open_:
        total = sum(shares[i] for i in open_)
        modest = [i for i in open_ if needs[i] <= left * shares[i] / total]
        if not modest:
            # Everyone who is left wants more than a share. Whole tokens: the fractions' remainder
            # goes to the first.
            for i in open_:
                given[i] = int(left * shares[i] / total)
            for i in open_[: left - sum(given[i] for i in open_)]:
                given[i] += 1
            break
        for i in modest:
            given[i] = needs[i]
        left -= sum(needs[i] for i in modest)
        open_ = [i for i in open_ if i not in modest]
    return given


def cut_middle(ids: np.ndarray, limit: int) -> np.ndarray:
    """Keep at most `limit` ids: the first half of them from the start, the rest from the end.

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
    """How many tokens each segment keeps."""
    parts = sorted({segment.part for segment in sequence})
    responses = len(parts) - 1
    of_part = {
        part: [i for i, segment in enumerate(sequence) if segment.part == part] for part in parts
    }
    needs = [sum(lengths[i] for i in of_part[part]) for part in parts]
    shares = [prompt_share if part == PROMPT else (1 - prompt_share) / responses for part in parts]
    limits = [0] * len(sequence)
    for part, given in zip(parts, allocate(needs, shares, room), strict=True):
        members = of_part[part]
        # The last turn counts as much as all before it together.
        weights = [1.0] * (len(members) - 1) + [max(1.0, len(members) - 1.0)]
        for i, limit in zip(
            members, allocate([lengths[i] for i in members], weights, given), strict=True
        ):
            limits[i] = limit
    return limits


def _last_rounds(sequence: Sequence, template: Template, max_length: int) -> Sequence:
    """The last rounds of a conversation of so many turns that what stands between them would fill
    half of the room."""
    size, room = len({segment.part for segment in sequence}), max_length - template.around()
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


def token_ids(
    texts: list[str], tokenizer: Any, known: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Add each new text's token ids, int32 without special tokens, to `known`; return it."""
    new = [text for text in dict.fromkeys(texts) if text not in known]
    for start in range(0, len(new), BATCH_TEXTS):
        part = new[start : start + BATCH_TEXTS]
        ids = (np.array(ids, dtype=np.int32) for ids in text_ids(part, tokenizer))
        known.update(zip(part, ids, strict=True))
    return known


def text_ids(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of texts, without special tokens around them or in them: one that spells "[SEP]"
    does not hold that token."""
    made = tokenizer(
        texts,
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        verbose=False,
    ).input_ids
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} - {
        tokenizer.unk_token_id
    }
    # A Unigram model has its special tokens among its words: where it takes them from a text they
    # become their characters.
    spelled = {
        i: tokenizer.convert_tokens_to_ids(list(tokenizer.convert_ids_to_tokens(i)))
        for i in special.intersection(itertools.chain(*made))
    }
    return (
        [[part for i in ids for part in spelled.get(i, (i,))] for ids in made] if spelled else made
    )


def find(ids: list[int], part: list[int], start: int) -> int:
    """Where `part` stands in `ids`, from `start` on."""
    for i in range(start, len(ids) - len(part) + 1):
        if ids[i : i + len(part)] == part:
            return i
    raise InputError(
        f"backbone: its tokenizer reads a text otherwise beside special tokens, {ids} do not hold "
        f"{part}"
    )
