"""The fixed text of a decoder's input, as token ids around the turns: the tokenizer's chat
template, or plain labels where it has none."""

import re
from itertools import zip_longest
from typing import Any

from jinja2.exceptions import TemplateError

from humanpref.schema import InputError
from humanpref.text.format import PROMPT, A, B
from humanpref.text.tokens import Template, find

LABELS = {PROMPT: "Prompt:\n", A: "Response A:\n", B: "Response B:\n"}
# A template may change a text's case, markup, line breaks or characters beyond ASCII, or cut it.
_PROBE = "Aa1 <b>&\"'\\{{x}}\n\n  ü🙂 " + "z" * 4_000
# Llama 3's template writes today's date into every conversation: a prediction would depend on it.
_DATE = "26 Jul 2024"


def judge_template(tokenizer: Any, system_prompt: str, question: str) -> Template:
    """Build the fixed text of a conversation in which a user shows prompt, response A and response
    B, round by round, and asks a question that the model is about to answer.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        With or without a chat template.
    system_prompt : str
        Empty for none.
    question : str
        Stands after the last response.

    Returns
    -------
    Template
        For the sequences of `humanpref.text.format.joint`.
    """
    if tokenizer.chat_template:  # which writes its own first and last tokens
        start, end = _chat(tokenizer, system_prompt, ["user"], answering=True)
        first, last = [], []
    else:
        start, end = _paragraph(system_prompt), "\n"
        first, last = _first_and_last(tokenizer)
    return Template(
        first + _ids(tokenizer, start + LABELS[PROMPT]),
        {part: _ids(tokenizer, "\n\n" + label) for part, label in LABELS.items()},
        _ids(tokenizer, f"\n\n{question}{end}") + last,
    )


def dialogue_template(tokenizer: Any, system_prompt: str) -> Template:
    """Build the fixed text of a conversation of prompts and responses in turn, as the model itself
    would have it.

    Returns
    -------
    Template
        For the sequences of `humanpref.text.format.dual`, whose responses are part A. The text
        after a response begins with the token that ends it.
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


def _paragraph(text: str) -> str:
    return f"{text}\n\n" if text else ""


def _chat(tokenizer: Any, system_prompt: str, roles: list[str], answering: bool) -> list[str]:
    """Render a conversation by the chat template and cut it at the contents of its messages, into
    one text more than there are `roles`.

    A system prompt that the template refuses, drops or moves stands before the first message's
    text.

    Raises
    ------
    InputError
        If the template cannot render such a conversation, or alters, cuts or drops a text of it.
    """
    marks = [f"@@{number}@@" for number in range(len(roles))]

    def rendered(system: str, texts: list[str]) -> str:
        messages = [
            {"role": role, "content": text}
            for role, text in zip(["system", *roles], [system, *texts], strict=True)
        ]
        return tokenizer.apply_chat_template(
            messages if system else messages[1:],
            tokenize=False,
            add_generation_prompt=answering,
            date_string=_DATE,
        )

    def cut(system: str, before: str) -> list[str]:
        """Cut a conversation whose first message starts with `before`. Raises ValueError unless it
        holds every text once and unchanged."""
        pieces = re.split("|".join(marks), rendered(system, [before + marks[0], *marks[1:]]))
        probes = [_PROBE + mark for mark in marks]
        probed = rendered(system, [before + probes[0], *probes[1:]])
        refilled = "".join(map("".join, zip_longest(pieces, probes, fillvalue="")))
        if len(pieces) != len(roles) + 1 or probed != refilled:
            raise ValueError("it alters, cuts or drops a text")
        if system_prompt.strip() not in pieces[0]:
            raise ValueError("it alters, cuts or drops the system prompt")
        return pieces

    for system, before in dict.fromkeys([(system_prompt, ""), ("", _paragraph(system_prompt))]):
        try:
            return cut(system, before)
        except (TemplateError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
    raise InputError(
        f"{tokenizer.name_or_path}: its chat template cannot hold a conversation of "
        f"{', '.join(dict.fromkeys(roles))}: {reason}; without chat_template plain labels are used"
    )


def _first_and_last(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer puts around a text: Llama and Gemma put one at
    the start, Qwen none."""
    inner, whole = _ids(tokenizer, "a"), list(tokenizer("a").input_ids)
    start = find(whole, inner, 0)
    return whole[:start], whole[start + len(inner) :]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)
