"""A reward function for trl's `GRPOTrainer`, and for anything else that calls
`f(prompts, completions, **columns)`.

A completion's reward is its expected score, P(win) + P(tie) / 2, averaged over its opponents and
over both orders of A and B. It is between 0 and 1; 0.5 is a draw.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from humanpref.data.cells import is_missing
from humanpref.data.formats.messages import ASSISTANT, Message, read_messages
from humanpref.interfaces.judge import Judge, load
from humanpref.schema import SWAPPED_CLASSES, TEXT_COLUMNS, InputError, counted

if TYPE_CHECKING:
    from humanpref.models import Model
    from humanpref.runs.artifact import Artifact

Conversation = str | Sequence[dict[str, Any]]
"""A text, or messages with `role` and `content`."""
Reward = Callable[..., list[float]]
Turns = tuple[str, ...]


def reward(
    model: "str | Path | Judge | Artifact | Model | None" = None, reference: str | None = None
) -> Reward:
    """Return a reward function for completions.

    Parameters
    ----------
    model : Judge, path, Artifact or Model, optional
        A judge, or an argument of `humanpref.load`; by default, the packaged judge, which follows
        length and layout: a policy that is trained against it will write longer answers.
    reference : str, optional
        The column of the training set with a reference answer to each prompt. It can have any name
        except `completion`, which trl does not pass on. Every completion is judged against its
        reference. By default, completions to the same prompt form a group and are judged against
        each other: n (n - 1) / 2 pairs for n completions.

    Returns
    -------
    callable
        `f(prompts, completions, **columns) -> list of float`, one reward in [0, 1] for each
        completion. Prompts, completions and references are strings or lists of messages. Earlier
        `assistant` messages of a prompt are in both answers; a `system` message begins the first
        turn. Columns other than `reference` are ignored.

    Raises
    ------
    InputError
        From the function: if the numbers of prompts, completions and references differ; if the
        column `reference` is missing; without `reference`, if a completion is alone in its group;
        or for a missing conversation, an answer without an assistant message, or a message that is
        not text.

    Examples
    --------
    >>> f = reward()
    >>> f(prompts=["Why?", "Why?"], completions=["Because.", "Because."])
    [0.5, 0.5]
    """
    judge = model if isinstance(model, Judge) else load(model)

    def humanpref_reward(
        prompts: Iterable[Conversation], completions: Iterable[Conversation], **columns: Any
    ) -> list[float]:
        prompts, completions = _listed(prompts, "prompts"), _listed(completions, "completions")
        if len(prompts) != len(completions):
            raise InputError(
                "reward: expected one completion per prompt, got "
                f"{counted(len(prompts), 'prompt')} and {counted(len(completions), 'completion')}"
            )
        answers = _conversations(prompts, completions, "completion")
        if reference is not None:
            column = f"column {reference!r}"
            if columns.get(reference) is None:
                raise InputError(f"reward: {column}: expected in the dataset, got none")
            others = _listed(columns[reference], column)
            if len(others) != len(prompts):
                raise InputError(
                    f"reward: {column}: expected {counted(len(prompts), 'reference answer')}, got "
                    f"{len(others)}"
                )
            opponents = _conversations(prompts, others, f"{column}: answer")
            pairs = [(i, len(answers) + i) for i in range(len(answers))]
            return _scores(judge, [*answers, *opponents], pairs)[: len(answers)]
        return _scores(judge, answers, _within_groups([repr(prompt) for prompt in prompts]))

    return humanpref_reward


def _within_groups(keys: list[str]) -> list[tuple[int, int]]:
    """Return all pairs of completions to the same prompt, as pairs of indices. `keys` has the
    prompt of each completion, as a string. Raises InputError if a prompt has only one
    completion."""
    ordered = sorted(range(len(keys)), key=keys.__getitem__)
    pairs: list[tuple[int, int]] = []
    for _, group in groupby(ordered, key=keys.__getitem__):
        rows = list(group)
        if len(rows) == 1:
            raise InputError(
                f"reward: completion {rows[0] + 1} is the only one for its prompt in this call; "
                "generate at least two per prompt in each process, or name a reference column"
            )
        pairs += combinations(rows, 2)
    return pairs


def _scores(
    judge: Judge, answers: list[tuple[Turns, Turns]], pairs: list[tuple[int, int]]
) -> list[float]:
    """Return the mean expected score of each answer over the pairs in which it occurs."""
    if not pairs:
        return []
    rows = [(answers[i][0], answers[i][1], answers[j][1]) for i, j in pairs]
    probabilities = _judged(judge, rows)
    if not judge.swap_equivariant:
        swapped = _judged(judge, [(prompt, b, a) for prompt, a, b in rows])
        probabilities = (probabilities + swapped[:, SWAPPED_CLASSES]) / 2
    first, second = np.array(pairs).T
    score = np.clip((1 + probabilities[:, 0] - probabilities[:, 1]) / 2, 0, 1)
    count = np.bincount(np.concatenate([first, second]), minlength=len(answers))
    total = np.bincount(first, score, len(answers)) + np.bincount(second, 1 - score, len(answers))
    return (total / count).tolist()


def _judged(judge: Judge, rows: list[tuple[Turns, ...]]) -> np.ndarray:
    return judge.judge_many([dict(zip(TEXT_COLUMNS, row, strict=True)) for row in rows])


def _listed(column: Iterable[Conversation], name: str) -> list[Conversation]:
    """Return a column as a list. Refuse a string, since its characters would become the rows."""
    if isinstance(column, str):
        raise InputError(f"reward: {name}: expected a list, got a string")
    return list(column)


def _conversations(
    prompts: list[Conversation], answers: list[Conversation], name: str
) -> list[tuple[Turns, Turns]]:
    """Return, for every row, the turns of its prompt and the turns of its answer."""
    found = []
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), start=1):
        try:
            asked, replies = ([prompt], []) if isinstance(prompt, str) else _rounds(_read(prompt))
        except ValueError as error:
            raise InputError(f"reward: prompt {number}: {error}") from None
        try:
            found.append(_turns(asked, replies, _answer(answer)))
        except ValueError as error:
            raise InputError(f"reward: {name} {number}: {error}") from None
    return found


def _answer(answer: Conversation) -> str:
    """Return the text of an answer."""
    if isinstance(answer, str):
        return answer
    texts = [text for role, text in _read(answer) if role == ASSISTANT]
    if not texts:
        raise ValueError("expected a message of the assistant, got none")
    return "\n\n".join(texts)


def _turns(asked: list[str], replies: list[str], last: str) -> tuple[Turns, Turns]:
    """Return the turns of a prompt, which are `asked`, and the turns of its answer: the earlier
    `replies`, followed by `last`. If the prompt ends with a reply, `last` continues that reply."""
    if len(replies) == len(asked) > 0:
        last = replies.pop() + last
    return tuple(asked), (*replies, last)


def _read(conversation: Any) -> list[Message]:
    if is_missing(conversation):
        raise ValueError("expected a text or a list of messages, got nothing")
    return read_messages(conversation)


def _rounds(messages: list[Message]) -> tuple[list[str], list[str]]:
    """Split a conversation into the user's turns and the assistant's replies. Consecutive messages
    from the same side form one turn; a system message counts as the user's."""
    asked: list[str] = []
    replies: list[str] = []
    for role, text in messages:
        waiting = len(asked) > len(replies)
        if role != ASSISTANT:
            if waiting:
                asked[-1] += f"\n\n{text}"
            else:
                asked.append(text)
        elif waiting:
            replies.append(text)
        elif replies:
            replies[-1] += f"\n\n{text}"
        else:  # the assistant speaks first
            asked.append("")
            replies.append(text)
    return asked, replies
