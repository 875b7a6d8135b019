"""The run that a bundle hands to both kernels."""

import tomllib

import pytest

from humanpref.kaggle.contract import KernelRun
from humanpref.schema import InputError


@pytest.mark.parametrize(
    "run",
    [
        KernelRun("prior"),
        KernelRun(
            "tiny",
            ('model.backbone="x"', "seed=1", "ü=\\"),
            backbone="weights/deberta",
            folds=5,
            inference_seconds=9.5,
        ),
    ],
)
def test_a_run_survives_its_file(run):
    assert KernelRun.from_dict(tomllib.loads(run.to_toml())) == run


def test_a_needless_option_of_a_run_is_warned_of_once(caplog):
    run = KernelRun("boosted", ("model.candidates=5",))
    written = run.to_toml()
    assert (run.pretrained, run.config.model.candidates) == (None, 5)
    assert [text for text in caplog.messages if "model.candidates" in text] == [
        "option model.candidates: has no effect with model.selection=none"
    ]
    assert run.to_toml() == written


def test_what_a_run_file_leaves_out_has_its_default():
    run = KernelRun.from_dict({"preset": "prior"})
    assert (run.overrides, run.backbone, run.folds, run.inference_seconds) == ((), "", None, None)
    assert run.train_seconds == 41_400  # 11.5 of the 12 hours that Kaggle gives
    assert "inference_seconds" not in run.to_toml()
    assert "train_seconds = 41400.0" in run.to_toml()


@pytest.mark.parametrize(
    ("run", "pretrained"),
    [
        (KernelRun(""), None),
        (KernelRun("sparse"), None),
        (KernelRun("tiny"), None),
        (KernelRun("tiny", ("model.backbone=some/encoder",)), "some/encoder"),
    ],
)
def test_the_pretrained_model_of_a_run(run, pretrained):
    assert run.pretrained == pretrained


def test_a_run_of_an_unknown_preset():
    with pytest.raises(InputError, match="unknown preset"):
        _ = KernelRun("tinny").pretrained


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "key preset is missing"),
        ({"preset": "prior", "fold": 5}, "unknown key 'fold'; the keys are preset, overrides"),
        ({"preset": "prior", "folds": "5"}, "run.toml.folds: expected int or none, got '5'"),
        ({"preset": "prior", "folds": True}, "run.toml.folds: expected int or none, got True"),
        ({"preset": "prior", "folds": 1}, "run.toml.folds: expected at least 2, got 1"),
        ({"preset": "prior", "overrides": [1]}, "run.toml.overrides: expected a list of texts"),
    ],
)
def test_a_run_that_cannot_be_used(values, message):
    with pytest.raises(InputError, match=message):
        KernelRun.from_dict(values)
