"""From the texts of a branch to token ids within a length, with a guaranteed share for prompt and response."""

import logging
from typing import Any, NamedTuple

import numpy as np

from humanpref.text.format import Branch

logger = logging.getLogger(__name__)

BATCH_TEXTS = 1_000


class Template(NamedTuple):
    """The special tokens around a pair of texts, and the token type of each part; read off the tokenizer itself."""

    prefix: list[int]
    middle: list[int]
    suffix: list[int]
    types: tuple[int, int]

    @property
    def tokens(self) -> int:
        """Special tokens in all."""
        return len(self.prefix) + len(self.middle) + len(self.suffix)


class Tokenised(NamedTuple):
    """The token ids and token types of one branch, each (length,) int32."""

    ids: np.ndarray
    types: np.ndarray


def template_of(tokenizer: Any) -> Template:
    """Read the special tokens of a pair off a tokenizer, whatever its family (one or two separators, types or none)."""
    first, second = (
        tokenizer("a", add_special_tokens=False).input_ids,
        tokenizer("b", add_special_tokens=False).input_ids,
    )
    pair = tokenizer("a", "b", return_token_type_ids=True)
    ids = list(pair.input_ids)
    start = _find(ids, first, 0)
    between = _find(ids, second, start + len(first))
    types = pair.get("token_type_ids") or [0] * len(ids)
    return Template(
        ids[:start], ids[start + len(first) : between], ids[between + len(second) :], (types[start], types[between])
    )


def tokenise(branches: list[Branch], tokenizer: Any, max_length: int, prompt_share: float) -> list[Tokenised]:
    """Token ids of each branch: prefix, prompt, middle, response, suffix.

    Where both do not fit, the prompt keeps `prompt_share` of the room and the response the rest; what one of them leaves over
    the other takes. What is too long loses its middle: openings and endings say most.

    Parameters
    ----------
    branches : list of Branch
        n branches.
    tokenizer : transformers tokenizer
        Any with `tokenizer(text, pair)`.
    max_length : int
        Tokens per branch, special tokens included.
    prompt_share : float
        In (0, 1).

    Returns
    -------
    list of Tokenised
        n branches of at most `max_length` tokens, in order.
    """
    template = template_of(tokenizer)
    room = max_length - template.tokens
    prompts = _ids([b.prompt for b in branches], tokenizer)
    responses = _ids([b.response for b in branches], tokenizer)
    cut = 0
    made = []
    for prompt, response in zip(prompts, responses, strict=True):
        for_prompt, for_response = budget(len(prompt), len(response), room, prompt_share)
        cut += for_prompt < len(prompt) or for_response < len(response)
        first = [*template.prefix, *cut_middle(prompt, for_prompt), *template.middle]
        second = [*cut_middle(response, for_response), *template.suffix]
        types = [template.types[0]] * len(first) + [template.types[1]] * len(second)
        made.append(Tokenised(np.array(first + second, dtype=np.int32), np.array(types, dtype=np.int32)))
    if made:
        mean = np.mean([len(tokens.ids) for tokens in made])
        logger.info(
            "tokens: %d branches, %.0f on average, %.1f %% cut to %d",
            len(made),
            mean,
            100 * cut / len(made),
            max_length,
        )
    return made


def budget(prompt: int, response: int, room: int, prompt_share: float) -> tuple[int, int]:
    """Tokens that prompt and response keep of their lengths, together at most `room`."""
    guaranteed = int(room * prompt_share)
    for_prompt = min(prompt, max(guaranteed, room - response))
    return for_prompt, min(response, room - for_prompt)


def cut_middle(ids: list[int], limit: int) -> list[int]:
    """At most `limit` ids: the first half of them from the start, the rest from the end."""
    if len(ids) <= limit:
        return ids
    head = (limit + 1) // 2
    return ids[:head] + ids[len(ids) - (limit - head) :]


def _ids(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of each text without special tokens; a text that stands several times is tokenised once."""
    distinct = list(dict.fromkeys(texts))
    known: dict[str, list[int]] = {}
    for start in range(0, len(distinct), BATCH_TEXTS):
        part = distinct[start : start + BATCH_TEXTS]
        encoded = tokenizer(part, add_special_tokens=False, return_attention_mask=False, verbose=False).input_ids
        known.update(zip(part, encoded, strict=True))
    return [known[text] for text in texts]


def _find(ids: list[int], part: list[int], start: int) -> int:
    for i in range(start, len(ids) - len(part) + 1):
        if ids[i : i + len(part)] == part:
            return i
    raise ValueError(f"the tokenizer's pair {ids} does not hold {part}")
