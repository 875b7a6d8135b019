"""Build the fixed text around the turns in a decoder's input, as token ids. It comes from the
tokenizer's chat template; if there is none, plain labels are used."""

import contextlib
import re
import sys
import time
from collections.abc import Iterator
from itertools import zip_longest
from types import FrameType
from typing import Any

from humanpref.schema import InputError
from humanpref.text.format import PROMPT, A, B
from humanpref.text.tokens import Template, find

LABELS = {PROMPT: "Prompt:\n", A: "Response A:\n", B: "Response B:\n"}
# A text that shows whether a template truncates texts or changes their case, markup, line breaks or
# non-ASCII characters.
_PROBE = "Aa1 <b>&\"'\\{{x}}\n\n  ü🙂 " + "z" * 4_000
# Llama 3's template writes today's date into every conversation, so predictions would depend on it.
_DATE = "26 Jul 2024"
SECONDS = 10
"""Time limit for a chat template, which usually takes a millisecond."""


def judge_template(tokenizer: Any, system_prompt: str, question: str) -> Template:
    """Build the fixed text of a conversation in which a user shows the prompt, response A and
    response B, round by round, and then asks a question that the model is about to answer.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        With or without a chat template.
    system_prompt : str
        If empty, there is no system prompt.
    question : str
        The text after the last response.

    Returns
    -------
    Template
        The template for sequences from `humanpref.text.format.joint`.
    """
    first, start, end, last = _around_question(tokenizer, system_prompt)
    return Template(
        first + _ids(tokenizer, start + LABELS[PROMPT]),
        {part: _ids(tokenizer, "\n\n" + label) for part, label in LABELS.items()},
        _ids(tokenizer, f"\n\n{question}{end}") + last,
    )


def answering_template(
    tokenizer: Any, system_prompt: str, question: str, answers: list[str], ties: bool = True
) -> tuple[Template, list[int]]:
    """Build `judge_template` with a question that names three words to answer with, and find the
    token with which the model would give each answer.

    The answer directly follows the template if that ends with white space or an added token, such
    as the one that begins the model's turn. Otherwise, there is a space between them.

    Parameters
    ----------
    tokenizer, system_prompt, question
        See `judge_template`.
    answers : list of str
        The words for response A, response B and a tie.
    ties : bool
        Whether the question offers a tie as an answer.

    Returns
    -------
    (Template, list of int)
        The template, and three token ids.

    Raises
    ------
    InputError
        If a word is not a single known token after the template, or if two words are the same
        token.
    """
    a, b, tie = answers
    choices = f"{a} for response A, {b} for response B, or {tie} for a tie"
    if not ties:
        choices = f"{a} for response A or {b} for response B"
    asked = f"{question} Answer with {choices}."
    _, _, end, _ = _around_question(tokenizer, system_prompt)
    text = f"\n\n{asked}{end}".rstrip(" ")
    suffix = _ids(tokenizer, text)
    added = suffix[-1] in tokenizer.added_tokens_decoder
    space = "" if added or text[-1].isspace() else " "
    found: dict[int, str] = {}
    for word in answers:
        ids = _ids(tokenizer, text + space + word)
        if ids[:-1] != suffix or ids[-1] == tokenizer.unk_token_id:
            first = next(i for i, token in enumerate(ids) if [token] != suffix[i : i + 1])
            pieces = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(ids[first:])))
            raise InputError(
                f"option model.answers: expected words of one token each after {text[-12:]!r}, got "
                f"{word!r}, which is {pieces}"
            )
        token = ids[-1]
        if token in found:
            raise InputError(
                f"option model.answers: {found[token]!r} and {word!r} are the same token, "
                f"{tokenizer.convert_ids_to_tokens(token)!r}"
            )
        found[token] = word
    template = judge_template(tokenizer, system_prompt, asked)
    # Leave out the special token that ends a text, since no answer would follow it.
    return template._replace(suffix=suffix), list(found)


def dialogue_template(tokenizer: Any, system_prompt: str) -> Template:
    """Build the fixed text of a conversation of alternating prompts and responses, in the model's
    own chat format.

    Returns
    -------
    Template
        The template for sequences from `humanpref.text.format.dual`, in which the response is part
        A. The fixed text after a response begins with the token that ends the response.
    """
    if tokenizer.chat_template:
        roles = ["user", "assistant", "user", "assistant"]
        start, answer, prompt, _, end = _chat(tokenizer, system_prompt, roles, answering=False)
        first, last = [], []
    else:
        start, answer = f"{_paragraph(system_prompt)}User:\n", "\n\nAssistant:\n"
        prompt, end = f"{tokenizer.eos_token or ''}\n\nUser:\n", ""
        first, _ = _first_and_last(tokenizer)
        last = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    before = {A: _ids(tokenizer, answer), PROMPT: _ids(tokenizer, prompt)}
    return Template(first + _ids(tokenizer, start), before, _ids(tokenizer, end) + last)


def _around_question(tokenizer: Any, system_prompt: str) -> tuple[list[int], str, str, list[int]]:
    """Return the first special tokens, the text before the user's message, the text after it, and
    the last special tokens, for a conversation in which the model answers next."""
    if tokenizer.chat_template:  # the template writes the first and last special tokens itself
        start, end = _chat(tokenizer, system_prompt, ["user"], answering=True)
        return [], start, end, []
    first, last = _first_and_last(tokenizer)
    return first, _paragraph(system_prompt), "\n", last


def _paragraph(text: str) -> str:
    return f"{text}\n\n" if text else ""


def _chat(tokenizer: Any, system_prompt: str, roles: list[str], answering: bool) -> list[str]:
    """Render a conversation with the chat template, remove the contents of its messages, and return
    the `len(roles) + 1` texts around them.

    If the template rejects, drops or moves the system prompt, the system prompt is put at the start
    of the first message instead.

    Raises
    ------
    InputError
        If the template cannot render such a conversation, or if it alters, cuts or drops a text.
    """
    marks = [f"@@{number}@@" for number in range(len(roles))]

    def rendered(system: str, texts: list[str]) -> str:
        messages = [
            {"role": role, "content": text}
            for role, text in zip(["system", *roles], [system, *texts], strict=True)
        ]
        with _limited(SECONDS):
            return tokenizer.apply_chat_template(
                messages if system else messages[1:],
                tokenize=False,
                add_generation_prompt=answering,
                date_string=_DATE,
            )

    def cut(system: str, before: str) -> list[str]:
        """Render a conversation whose first message starts with `before`, and split it at the
        contents of its messages. Raises ValueError unless it contains all texts unchanged."""
        pieces = re.split("|".join(marks), rendered(system, [before + marks[0], *marks[1:]]))
        probes = [_PROBE + mark for mark in marks]
        probed = rendered(system, [before + probes[0], *probes[1:]])
        refilled = "".join(map("".join, zip_longest(pieces, probes, fillvalue="")))
        if len(pieces) != len(roles) + 1 or probed != refilled:
            raise ValueError("a text comes out altered, cut or missing")
        if system_prompt.strip() not in pieces[0]:
            raise ValueError("the system prompt comes out altered, cut or missing")
        return pieces

    for system, before in dict.fromkeys([(system_prompt, ""), ("", _paragraph(system_prompt))]):
        try:
            return cut(system, before)
        except Exception as error:  # a template is a program
            reason = " ".join(str(error).split())[:200] or type(error).__name__
    raise InputError(
        f"{tokenizer.name_or_path}: its chat template cannot represent a conversation of "
        f"{', '.join(dict.fromkeys(roles))}: {reason}; remove chat_template "
        "from the tokenizer to use plain labels"
    )


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block if its Python code, such as a template with an endless loop,
    takes longer than `seconds`."""
    deadline, tracer = time.monotonic() + seconds, sys.gettrace()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > deadline:
            raise TimeoutError(f"rendering takes more than {seconds} s")
        return trace

    if tracer is None:  # otherwise, keep the trace function of a debugger or a coverage tool
        sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(tracer)


def _first_and_last(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer puts before a text, and those that it puts after
    a text. Llama's and Gemma's tokenizers put one before it; Qwen's puts none."""
    inner, whole = _ids(tokenizer, "a"), list(tokenizer("a").input_ids)
    start = find(whole, inner, 0)
    return whole[:start], whole[start + len(inner) :]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)
