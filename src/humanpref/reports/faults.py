"""Find faults in rows that can be read, and count the faults of a file by kind."""

import pandas as pd

from humanpref.data import Fault, labels_of
from humanpref.reports.tables import has_labels, names_models
from humanpref.schema import CLASSES, ID, MODEL_COLUMNS, SWAPPED_CLASSES, TEXT_COLUMNS

FAULT_MEANINGS = {
    "fields": "wrong number of fields; row left out",
    "id": "missing, repeated or unprintable id; row left out",
    "label": "labels that are not probabilities; row left out",
    "weight": "unusable weight; row left out",
    "equal": "chosen equals rejected; row left out",
    "text": "text of a different form than the others; read as one turn",
    "null": "null turn; read as empty",
    "surrogate": "lone surrogate; read as U+FFFD",
    "turns": "an answer and the prompt have different numbers of turns",
    "copy": "prompt and both answers are the same as in an earlier row",
    "mirror": "same as an earlier row, but with A and B exchanged",
    "contradiction": "same texts as in an earlier row, but a different label",
    "same model": "both answers are by the same model",
    "no model": "a model's name is missing; row left out of wins and strengths",
    "decided, identical": "identical answers, but not labeled a tie",
}
"""The kinds of data faults, each with its meaning and its consequence, if any."""


def row_faults(pairs: pd.DataFrame, rows: list[int]) -> list[Fault]:
    """Find faults in rows that could be read, namely unequal numbers of turns, copies, mirrored
    copies, contradictory labels, equal or missing models, and identical answers not labeled a tie.

    Parameters
    ----------
    pairs : DataFrame
        A pairs frame of n rows, with or without labels and models.
    rows : list of int
        The number of each of the n rows in the file, counted from 1.

    Returns
    -------
    list of Fault
        The faults, in the order of the rows.
    """
    labels = labels_of(pairs).argmax(axis=1).tolist() if has_labels(pairs) else None
    named, with_models = names_models(pairs), set(MODEL_COLUMNS) <= set(pairs)
    faults: list[Fault] = []
    first: dict[tuple, int] = {}
    ids = pairs[ID].tolist()
    for i, texts in enumerate(zip(*(pairs[column] for column in TEXT_COLUMNS), strict=True)):
        prompt, a, b = texts
        kinds: list[tuple[str, str]] = []
        if not len(prompt) == len(a) == len(b):
            turns = f"{len(prompt)}, {len(a)}, {len(b)}"
            kinds.append(("turns", f"turns of prompt, A and B: {turns}"))
        models = [pairs[column].iat[i] for column in MODEL_COLUMNS] if with_models else []
        if named[i] and models[0] == models[1]:
            kinds.append(("same model", models[0]))
        if with_models and not named[i]:
            empty = (c for c, name in zip(MODEL_COLUMNS, models, strict=True) if not name.strip())
            kinds.append(("no model", ", ".join(f"column {c!r} is empty" for c in empty)))
        if labels and a == b and labels[i] != 2:
            kinds.append(("decided, identical", f"label {CLASSES[labels[i]]}"))
        copied, mirrored = first.get(texts), first.get((prompt, b, a)) if a != b else None
        for kind, other, order in (
            ("copy", copied, (0, 1, 2)),
            ("mirror", mirrored, SWAPPED_CLASSES),
        ):
            if other is not None:
                kinds.append((kind, f"id {ids[other]}"))
                if labels and labels[i] != order[labels[other]]:
                    kinds.append(("contradiction", f"id {ids[other]}"))
        first.setdefault(texts, i)
        faults += [Fault(int(rows[i]), ids[i], *kind) for kind in kinds]
    return faults


def fault_table(faults: list[Fault]) -> pd.DataFrame:
    """Count the faults of each kind that occurs. The columns are `kind`, `what` (its meaning),
    `times`, `rows` and `first_ids` (up to ten)."""
    records = []
    for kind, what in FAULT_MEANINGS.items():
        of_kind = [fault for fault in faults if fault.kind == kind]
        if of_kind:
            ids = list(dict.fromkeys(fault.id or f"row {fault.row}" for fault in of_kind))
            shown = ", ".join(ids[:10]) + (" …" if len(ids) > 10 else "")
            rows = len({fault.row for fault in of_kind})
            records.append((kind, what, len(of_kind), rows, shown))
    return pd.DataFrame(records, columns=["kind", "what", "times", "rows", "first_ids"])
