"""Fused attention that computes something else fails."""

import pytest

pytest.importorskip("torch")

import torch

from humanpref.kaggle.acceptance import attention
from humanpref.kaggle.acceptance.setting import Setting


def test_other_results_fail(monkeypatch):
    rows = list(attention.attention(Setting(quick=True)))
    assert [row.passed for row in rows] == [True, True]
    build = attention.workload

    def spoilt(config):
        work = build(config)
        if config.model.attention == "fused":
            with torch.no_grad():
                work.module.backbone.encoder.rel_embeddings.weight.mul_(1.1)
        return work

    monkeypatch.setattr(attention, "workload", spoilt)
    rows = list(attention.attention(Setting(quick=True)))
    assert [row.passed for row in rows] == [False, False]
