"""The fixed text of a decoder's input: its chat template, or plain labels where it has none, as token ids around the turns."""

from typing import Any

from jinja2.exceptions import TemplateError

from humanpref.text.format import PROMPT, A, B
from humanpref.text.tokens import Template, find

LABELS = {PROMPT: "Prompt:\n", A: "Response A:\n", B: "Response B:\n"}
_MARK = "@@{}@@"
# Llama 3's template writes the day's date into every conversation, and a prediction would depend on it.
_DATE = "26 Jul 2024"


def judge_template(tokenizer: Any, system_prompt: str, question: str) -> Template:
    """A user who shows prompt, response A and response B, round by round, and asks; the model is about to answer.

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
        For the sequences of `humanpref.text.format.dual`, responses being part A. What follows a response begins with the token
        that ends it.
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
    """A conversation rendered by the chat template, cut at the contents of its messages: one text more than `roles`."""
    marks = [_MARK.format(i) for i in range(len(roles))]
    messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []

    def rendered(conversation: list[dict[str, str]]) -> str:
        return tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=answering, date_string=_DATE
        )

    try:
        text = rendered(system + messages)
    except TemplateError:  # "System role not supported", says Gemma 2's
        text = ""
    if system and system_prompt not in text:
        messages[0]["content"] = f"{system_prompt}\n\n{marks[0]}"
        text = rendered(messages)
    pieces = []
    for mark in marks:
        piece, _, text = text.partition(mark)
        pieces.append(piece)
    return [*pieces, text]


def _first_and_last(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts around a text: Llama and Gemma one at the start, Qwen none."""
    inner, whole = _ids(tokenizer, "a"), list(tokenizer("a").input_ids)
    start = find(whole, inner, 0)
    return whole[:start], whole[start + len(inner) :]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)
