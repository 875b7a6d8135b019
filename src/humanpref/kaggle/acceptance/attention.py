"""Compare the results and the time of DeBERTa's fused attention with transformers' own (eager)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from humanpref.kaggle.acceptance.card import fastest
from humanpref.kaggle.acceptance.setting import Row, Setting, autocast, device, scratch
from humanpref.kaggle.acceptance.workload import Workload, preset_config, workload
from humanpref.training.inputs import moved

LENGTHS, TOKENS = (128, 512, 1_024), 2_048
LEAST = 1e-4
"""Relative error that is always accepted, even if eager attention has a smaller one."""
SLOWER = 1.1
"""Maximum time of fused attention, as a multiple of the time of eager attention."""
Cast = AbstractContextManager


def attention(setting: Setting) -> Iterator[Row]:
    """Compare the error and the time of DeBERTa-v3-base with fused and with eager attention, at
    several lengths."""
    lengths = (32, 64) if setting.quick else LENGTHS
    with scratch() as folder:
        kinds = {}
        for kind in ("eager", "fused"):
            config = preset_config(
                "deberta-v3-base",
                folder / kind,
                setting.quick,
                f"model.attention={kind}",
                "model.inputs=joint",
                f"model.max_length={max(lengths)}",
            )
            kinds[kind] = workload(config)
        for length in lengths:
            rows = max(2, (256 if setting.quick else TOKENS) // length)
            yield _compared(setting, kinds, length, rows)


def _compared(setting: Setting, kinds: dict[str, Workload], length: int, rows: int) -> Row:
    eager, fused = kinds["eager"], kinds["fused"]
    # A shorter row, so that the batch has padding.
    texts = np.full((rows, 3), length)
    texts[0] = length // 6
    batch = moved(eager.rows(texts)(np.arange(rows)), device())
    exact = _results(eager, batch, nullcontext())
    errors = {
        kind: _error(_results(work, batch, autocast()), exact) for kind, work in kinds.items()
    }
    allowed = max(LEAST, 2 * errors["eager"])
    seconds = {
        kind: fastest(lambda work=work: _pass(work, batch, autocast(), train=True), rounds=3)
        for kind, work in kinds.items()
    }
    faster = seconds["eager"] / seconds["fused"]
    passed = fused.module.attention == "fused" and errors["fused"] <= allowed
    if setting.judged:
        passed &= faster >= 1 / SLOWER
    return Row(
        "fused attention",
        f"deberta-v3-base, {rows} x {length}",
        f"{faster:.2f} times as fast as eager; error {errors['fused']:.1e}, eager "
        f"{errors['eager']:.1e}",
        f"error at most {allowed:.1e}, time at most {SLOWER} times",
        bool(passed),
    )


def _pass(work: Workload, batch: dict[str, Any], cast: Cast, train: bool) -> torch.Tensor:
    """Run a forward pass in the autocast context `cast`, then a backward pass, and return the
    logits."""
    work.module.train(train)
    work.module.zero_grad()
    with cast:
        logits = work.module(**batch)
    logits.float().logsumexp(dim=1).mean().backward()
    return logits


def _results(work: Workload, batch: dict[str, Any], cast: Cast) -> list[torch.Tensor]:
    """Run a forward and a backward pass without dropout. Return the logits, and the gradients of
    the query weights, key weights and relative embeddings."""
    logits = _pass(work, batch, cast, train=False)
    names = ("query_proj.weight", "key_proj.weight", "rel_embeddings.weight")
    found = [
        weight.grad.float().clone()
        for name, weight in work.module.named_parameters()
        if name.endswith(names)
    ]
    return [logits.detach().float(), *found]


def _error(found: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """Return the largest relative error |a - b| / |b|, where a is a tensor in `found` and b the
    tensor at the same place in `exact`."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))
