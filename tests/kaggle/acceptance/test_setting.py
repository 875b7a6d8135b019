"""What a check is given."""

import os

import pytest

pytest.importorskip("torch")

from humanpref.kaggle.acceptance import setting
from humanpref.kaggle.acceptance.setting import Setting, on_the_cpu, precisions, small, some_pairs


def test_times_are_not_judged_on_a_cpu():
    assert not Setting(quick=False).judged
    assert precisions() == ["bf16"]


def test_on_the_cpu_leaves_the_environment_as_it_was(monkeypatch):
    for value in ("false", None):
        if value is None:
            monkeypatch.delenv("ACCELERATE_USE_CPU")
        else:
            monkeypatch.setenv("ACCELERATE_USE_CPU", value)
        with on_the_cpu():
            assert setting.device().type == "cpu"
            assert os.environ["ACCELERATE_USE_CPU"] == "true"
        assert os.environ.get("ACCELERATE_USE_CPU") == value


@pytest.mark.parametrize("family", setting.SMALL)
def test_a_short_training_learns_from_all_its_rows(family):
    config = small(family, "some-folder", "training.epochs=2")
    assert (config.family, config.training.epochs) == (family, 2)
    assert config.model.backbone == "some-folder"
    assert len(some_pairs(7)) == 7
