"""The fixed text of a decoder's input: its chat template, or plain labels where it has none, as
token ids around the turns."""

import re
from typing import Any

from jinja2.exceptions import TemplateError

from humanpref.schema import InputError
from humanpref.text.format import PROMPT, A, B
from humanpref.text.tokens import Template, find

LABELS = {PROMPT: "Prompt:\n", A: "Response A:\n", B: "Response B:\n"}
_MARK = "@@{}@@"
# What a template may take from a text: case, marks, lines, what is not ASCII, all but its
# beginning.
_PROBE = "Aa1 <b>&\"'\\{{x}}\n\n  ü🙂 " + "z" * 4_000
# Llama 3's template writes the day's date into every conversation, and a prediction would depend on
# it.
_DATE = "26 Jul 2024"


def judge_template(tokenizer: Any, system_prompt: str, question: str) -> Template:
    """A user who shows prompt, response A and response B, round by round, and asks; the model is
    about to answer.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        With or without a chat template.
    system_prompt : str
        Empty for none.
    question : str
        After the last response.

    Returns
    -------
    Template
        For the sequences of `humanpref.text.format.joint`.
    """
    if tokenizer.chat_template:  # which writes its own first and last tokens
        start, end = _chat(tokenizer, system_prompt, ["user"], answering=True)
        first, last = [], []
    else:
        start, end = system_prompt and f"{system_prompt}\n\n", "\n"
        first, last = _first_and_last(tokenizer)
    return Template(
        first + _ids(tokenizer, start + LABELS[PROMPT]),
        {part: _ids(tokenizer, "\n\n" + label) for part, label in LABELS.items()},
        _ids(tokenizer, f"\n\n{question}{end}") + last,
    )


def dialogue_template(tokenizer: Any, system_prompt: str) -> Template:
    """A conversation of prompts and responses in turn, as the model itself would hold it.

    Returns
    -------
    Template
        For the sequences of `humanpref.text.format.dual`, responses being part A. What follows a
        response begins with the token that ends it.
    """
    if tokenizer.chat_template:
        roles = ["user", "assistant", "user", "assistant"]
        start, answer, prompt, _, end = _chat(tokenizer, system_prompt, roles, answering=False)
        first, last = [], []
    else:
        start, answer = (system_prompt and f"{system_prompt}\n\n") + "User:\n", "\n\nAssistant:\n"
        prompt, end = f"{tokenizer.eos_token or ''}\n\nUser:\n", ""
        first, _ = _first_and_last(tokenizer)
        last = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    before = {A: _ids(tokenizer, answer), PROMPT: _ids(tokenizer, prompt)}
    return Template(first + _ids(tokenizer, start), before, _ids(tokenizer, end) + last)


def _chat(tokenizer: Any, system_prompt: str, roles: list[str], answering: bool) -> list[str]:
    """A conversation rendered by the chat template, cut at the contents of its messages: one text
    more than `roles`.

    Raises
    ------
    InputError
        If the template cannot render such a conversation, or alters, cuts or drops a text of it.
    """
    marks = [_MARK.format(i) for i in range(len(roles))]
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []

    def rendered(texts: list[str], first: list[dict[str, str]]) -> str:
        messages = [
            {"role": role, "content": text} for role, text in zip(roles, texts, strict=True)
        ]
        return tokenizer.apply_chat_template(
            first + messages, tokenize=False, add_generation_prompt=answering, date_string=_DATE
        )

    def cut(before: str, first: list[dict[str, str]]) -> list[str]:
        """`before` stands in the first message. Raises ValueError for what does not hold every text
        once, as it is."""
        whole = rendered([before + marks[0], *marks[1:]], first)
        pieces = re.split("|".join(map(re.escape, marks)), whole)
        probes = [_PROBE + mark for mark in marks]
        probed = rendered([before + probes[0], *probes[1:]], first)
        texts = (*probes, "")
        if len(pieces) != len(texts) or probed != "".join(
            map("".join, zip(pieces, texts, strict=True))
        ):
            raise ValueError("it alters, cuts or drops a text")
        if (before.strip() or system_prompt) not in pieces[0]:
            raise ValueError("it alters, cuts or drops the system prompt")
        return pieces

    try:
        return cut("", system)
    except (
        TemplateError,
        TypeError,
        ValueError,
    ) as error:  # "System role not supported", says Gemma 2's
        reason = error
    if system:
        try:
            return cut(f"{system_prompt}\n\n", [])
        except (TemplateError, TypeError, ValueError) as error:
            reason = error
    raise InputError(
        f"{tokenizer.name_or_path}: its chat template cannot hold a conversation of "
        f"{', '.join(dict.fromkeys(roles))}: "
        f"{' '.join(str(reason).split())}; without chat_template plain labels are used"
    )


def _first_and_last(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts around a text: Llama and Gemma one at the start,
    Qwen none."""
    inner, whole = _ids(tokenizer, "a"), list(tokenizer("a").input_ids)
    start = find(whole, inner, 0)
    return whole[:start], whole[start + len(inner) :]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)
