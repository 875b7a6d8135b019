"""The report's ablations: which variants they train, and what their tables hold."""

import json

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from humanpref.config.neural import SYSTEM_PROMPT
from humanpref.data import labels_of, write_pairs
from humanpref.logloss import row_log_losses
from humanpref.models import load_model
from humanpref.reports.table_text import markdown
from humanpref.runs.artifact_tables import read_oof
from humanpref.schema import LABEL_COLUMNS, InputError
from humanpref.studies import ablations
from humanpref.studies.ablations import (
    ABLATIONS,
    SOFTMAX,
    ablate,
    preprocessing_variants,
    softmax_variants,
    system_prompt_variants,
)
from humanpref.studies.compare import Variant, compare

MICRO = (
    "model.max_length=24",
    "model.scratch_hidden_size=8",
    "model.scratch_vocabulary=300",
    "training.learning_rate=1e-2",
)
SPARSE = ("model.term_penalties=3", "model.structure_penalties=30")
SHOWN = [
    *("name", "log_loss", "log_loss_low", "log_loss_high"),
    *("difference", "difference_low", "difference_high", "rows"),
]


def test_softmax_variants_are_five_trainings_of_six_runs():
    variants = softmax_variants("tiny", ("seed=3",))
    assert [variant.name for variant in variants] == [
        "none / softmax, 1 epoch",
        "none / softmax, 3 epochs",
        "softmax / softmax, 1 epoch",
        "log-softmax / softmax, 1 epoch",
        "softmax / none, 1 epoch",
        "softmax / none, 3 epochs",
    ]
    clip = "inference.normalise=clip"
    assert [(v.training, *v.overrides, *v.inference) for v in variants] == [
        ("none-1", "seed=3", "model.scores=logits", "training.epochs=1"),
        ("none-3", "seed=3", "model.scores=logits", "training.epochs=3"),
        ("softmax-1", "seed=3", "model.scores=softmax", "training.epochs=1"),
        ("log-softmax-1", "seed=3", "model.scores=log-softmax", "training.epochs=1"),
        ("softmax-1", "seed=3", "model.scores=softmax", "training.epochs=1", clip),
        ("softmax-3", "seed=3", "model.scores=softmax", "training.epochs=3", clip),
    ]
    assert {variant.preset for variant in variants} == {"tiny"}
    with pytest.raises(InputError, match=r"training\.seeds: expected 1 in this ablation, got 2"):
        softmax_variants("tiny", ("training.seeds=2",))


def test_preprocessing_variants():
    variants = preprocessing_variants("sparse", ("seed=3",))
    assert [(v.name, v.config().model.preprocess, v.config().seed) for v in variants] == [
        ("none", "none", 3),
        ("nltk", "nltk", 3),
        ("nltk-no-spaces", "nltk-no-spaces", 3),
    ]
    with pytest.raises(InputError, match="--preset tiny: expected a preset of family sparse"):
        preprocessing_variants("tiny", ())


def test_system_prompt_variants():
    preset = "llama-3.2-1b-lora"
    variants = system_prompt_variants(preset, ("model.system_prompt=", "seed=3"))
    assert [(v.name, v.config().model.system_prompt, v.config().seed) for v in variants] == [
        ("without", "", 3),
        ("with", SYSTEM_PROMPT, 3),
    ]
    _, own = system_prompt_variants(preset, ("model.system_prompt=Judge.",))
    assert own.config().model.system_prompt == "Judge."
    with pytest.raises(InputError, match="--preset sparse: expected a preset of family decoder"):
        system_prompt_variants("sparse", ())


@pytest.mark.parametrize(
    "runs", [[2, 4], pytest.param(range(6), marks=pytest.mark.slow)], ids=["one training", "all"]
)
@pytest.mark.usefixtures("in_this_process")
def test_the_softmax_ablation(pairs, tmp_path, monkeypatch, runs):
    monkeypatch.setattr(ablations, "SOFTMAX", SOFTMAX.iloc[runs].reset_index(drop=True))
    # Rows of weight 0 are dropped before a training makes its folds.
    weighted = pairs.assign(weight=np.where(np.arange(len(pairs)) % 3 == 0, 0.0, 1.0))
    csv, out = tmp_path / "train.csv", tmp_path / "out"
    write_pairs(csv, weighted)
    table = ablate("softmax", "tiny", (*MICRO, "training.swap_augmentation=false"), csv, out, 2)
    assert list(table) == [*SHOWN, "train_loss", "leaderboard", "theory"]
    assert (table["rows"] == 80).all()
    by_name = table.set_index("name")
    assert by_name["leaderboard"].to_dict() == {
        name: score
        for name, score in zip(SOFTMAX["name"], SOFTMAX["leaderboard"], strict=True)
        if name in by_name.index
    }
    damped, bare = by_name.loc["softmax / softmax, 1 epoch"], by_name.loc["softmax / none, 1 epoch"]
    labelled = pairs.set_index("id")
    oof = read_oof(out / "softmax-1" / "oof.csv").set_index("id")[list(LABEL_COLUMNS)]
    labels = labels_of(labelled.loc[oof.index])
    assert damped["log_loss"] == pytest.approx(row_log_losses(labels, oof.to_numpy()).mean())
    # What has been through a softmax is bolder without the second one: p ∝ exp(q) is undone by
    # q = ln p + c, with c such that q sums to 1.
    logs = np.log(oof.to_numpy())
    bold = logs + (1 - logs.sum(axis=1, keepdims=True)) / 3
    assert bare["log_loss"] == pytest.approx(row_log_losses(labels, bold).mean(), abs=1e-5)
    folds = json.loads((out / "softmax-1" / "metrics.json").read_text())["members"].values()
    losses = [fold["training"]["epochs"][-1]["train_loss"] for fold in folds]
    assert damped["train_loss"] == bare["train_loss"] == pytest.approx(np.mean(losses))
    assert (out / "softmax.md").read_text() == markdown(table)
    assert (out / "softmax.png").read_bytes().startswith(b"\x89PNG")
    if len(table) == len(SOFTMAX):
        # The log-softmax of a log-softmax is itself.
        plain, same = by_name.iloc[0], by_name.loc["log-softmax / softmax, 1 epoch"]
        for column in ("log_loss", "train_loss"):
            assert same[column] == pytest.approx(plain[column], abs=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_the_preprocessing_ablation_counts_terms(arena, tmp_path, monkeypatch):
    variants = [
        Variant("none", "sparse", SPARSE),
        Variant("few", "sparse", (*SPARSE, "model.max_terms=5")),
    ]
    own = ABLATIONS["preprocessing"]._replace(variants=lambda *arguments: variants)
    monkeypatch.setitem(ABLATIONS, "preprocessing", own)
    out = tmp_path / "out"
    table = ablate("preprocessing", "sparse", (), arena / "train.csv", out, 2)
    assert list(table) == [*SHOWN, "terms"]
    terms = [
        len(load_model(out / "none" / fold).responses_.get_feature_names_out())
        for fold in ("fold-0", "fold-1")
    ]
    assert table["terms"].tolist() == [np.mean(terms), 5]
    assert table["name"].tolist() == ["none", "few"]
    assert (out / "preprocessing.md").read_text() == markdown(table)
    assert (out / "preprocessing.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("in_this_process")
def test_the_system_prompt_ablation_shows_the_prompts(arena, tmp_path, monkeypatch):
    trained = []

    def compare_priors(variants, *arguments):
        trained.extend(variants)
        return compare([Variant(v.name, "prior") for v in variants], *arguments)

    monkeypatch.setattr(ablations, "compare", compare_priors)
    preset, out = "llama-3.2-1b-lora", tmp_path / "out"
    table = ablate("system-prompt", preset, (), arena / "train.csv", out, 2)
    assert trained == system_prompt_variants(preset, ())
    assert list(table) == [*SHOWN, "system_prompt"]
    assert table["name"].tolist() == ["without", "with"]
    assert table["system_prompt"].tolist() == ["", SYSTEM_PROMPT]
    assert table["rows"].tolist() == [120, 120]
    pd.testing.assert_frame_equal(
        pd.read_csv(out / "system-prompt.csv", keep_default_na=False), table, check_dtype=False
    )
    assert (out / "system-prompt.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_system_prompt_ablation(arena, decoder_folder, tmp_path):
    pytest.importorskip("peft")
    overrides = (
        f"model.backbone={decoder_folder()}",
        "model.max_length=256",
        "training.learning_rate=1e-2",
    )
    csv, out = arena / "train.csv", tmp_path / "out"
    table = ablate("system-prompt", "llama-3.2-1b-lora", overrides, csv, out, None)
    configs = [
        json.loads((out / name / "model" / "config.json").read_text())
        for name in ("without", "with")
    ]
    assert [config["model"].pop("system_prompt") for config in configs] == ["", SYSTEM_PROMPT]
    assert configs[0] == configs[1]
    without, prompted = (read_oof(out / name / "oof.csv") for name in ("without", "with"))
    pd.testing.assert_frame_equal(without[["id", "fold"]], prompted[["id", "fold"]])
    assert (without["winner_tie"] != prompted["winner_tie"]).any()
    difference = table["log_loss"][1] - table["log_loss"][0]
    assert table["difference"][1] == pytest.approx(difference)
