"""What an optimizer step, a micro-batch and a batch of inference cost in copies and waits."""

from collections import Counter

import pytest

from .runs import FAMILIES, fit, tiny

COSTS = {
    "encoder": {
        "step": {"to the device": 1, "to the host": 1, "item": 1},
        "micro-batch": {"to the device": 7, "to the host": 1},
        "inference": {"to the device": 7, "to the host": 2},
    },
    "decoder": {
        "step": {"to the device": 1, "to the host": 1, "item": 1},
        "micro-batch": {"to the device": 4, "to the host": 1, "item": 1},
        "inference": {"to the device": 4, "to the host": 2, "item": 1},
    },
    "dpo": {
        "step": {"to the device": 1, "to the host": 1, "item": 1},
        "micro-batch": {
            "to the device": 6,
            "to the host": 1,
            "item": 1,
            "boolean index": 3,
            "nonzero": 1,
        },
        # Every batch is read twice: by the reference and by the policy.
        "inference": {
            "to the device": 11,
            "to the host": 4,
            "item": 2,
            "boolean index": 4,
            "nonzero": 2,
        },
    },
}
"""Copies ("to the device", "index") and waits (all others) of each family. These numbers only fall:
whoever saves one lowers it here."""
ROW_TOKENS = {"encoder": 64, "decoder": 80, "dpo": 160}


def recorded(gpu, action, *arguments) -> Counter:
    """Return the copies and waits of an action, by kind and line."""
    gpu.clear()
    action(*arguments)
    return gpu.copies + gpu.waits


def difference(more: Counter, fewer: Counter, units: int) -> Counter:
    """Return what one unit costs, where `more` has that many units more than `fewer`."""
    more = Counter(more)
    more.subtract(fewer)
    return Counter({key: number / units for key, number in more.items() if number})


def check(costs: Counter, expected: dict[str, int]) -> None:
    by_kind = Counter()
    for (kind, _), number in costs.items():
        by_kind[kind] += number
    grown = {kind: n for kind, n in by_kind.items() if n > expected.get(kind, 0)}
    lines = {key: number for key, number in costs.items() if key[0] in grown}
    assert not grown, f"more than {expected}: {lines}"


@pytest.mark.parametrize("family", FAMILIES)
def test_training(gpu, pairs, backbone_of, family):
    ties = ("training.ties=davidson",) if family == "dpo" else ()

    def costs(rows, *overrides):
        config = tiny(family, backbone_of(family), *ties, *overrides)
        return recorded(gpu, fit, config, pairs[:rows].reset_index(drop=True))

    # Two steps each, of two micro-batches and of one; then four steps of one micro-batch.
    two_steps = costs(8)
    micro_batch = difference(
        costs(16, "training.accumulation=2"), costs(16, "training.batch_size=8"), 2
    )
    step = difference(costs(16), two_steps, 2)
    step.subtract(micro_batch)
    check(micro_batch, COSTS[family]["micro-batch"])
    check(step, COSTS[family]["step"])


@pytest.mark.parametrize("family", FAMILIES)
def test_inference(gpu, pairs, backbone_of, family):
    rows = pairs[:8].reset_index(drop=True)
    two_rows = f"inference.batch_tokens={2 * ROW_TOKENS[family]}"
    model = fit(tiny(family, backbone_of(family), two_rows), rows)
    model.predict_proba(rows[:2])  # moves the module to the device
    four, two = (recorded(gpu, model.predict_proba, part) for part in (rows, rows[:4]))
    check(difference(four, two, 2), COSTS[family]["inference"])
