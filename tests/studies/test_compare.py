"""The comparison of several trainings: the table, the same folds, resuming, and what is refused."""

import math
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from humanpref.config import load_config
from humanpref.data import labels_of, prompt_keys
from humanpref.evaluation.metrics import bootstrap_interval
from humanpref.logloss import row_log_losses
from humanpref.reports.table_text import markdown
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_tables import read_oof
from humanpref.runs.train import train
from humanpref.schema import LABEL_COLUMNS, InputError
from humanpref.studies import compare as comparison
from humanpref.studies.compare import Variant, compare, run_training, variants_of, write_table

MICRO = (
    "model.max_length=24",
    "model.scratch_hidden_size=8",
    "model.scratch_vocabulary=300",
    "training.learning_rate=1e-2",
)
PRIOR = Variant("prior", "prior")
CLIP = ("inference.normalise=clip",)
SCORES = (*MICRO, "model.scores=softmax")
VARIANTS = [
    PRIOR,
    Variant("twice", "tiny", SCORES, training="scores"),
    Variant("once", "tiny", SCORES, CLIP, training="scores"),
]


@pytest.fixture(scope="module")
def compared(arena, tmp_path_factory):
    out = tmp_path_factory.mktemp("studies") / "comparison"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(comparison, "fresh_processes", lambda _: ThreadPoolExecutor(1))
        return compare(VARIANTS, arena / "train.csv", out, folds=2), out


def test_the_table(compared):
    table, out = compared
    assert table["name"].tolist() == ["prior", "twice", "once"]
    assert (table["rows"] == 120).all()
    trained = table[1:]
    assert (trained["tokens_per_second"] > 0).all()
    assert trained["peak_memory_gib"].between(0.05, 8).all()
    assert trained["parameters"].between(1_000, 20_000).all()
    metrics = Artifact.load(out / "scores").metrics
    twice = table.loc[1]
    for column in ("log_loss", "log_loss_low", "log_loss_high", "accuracy", "prior_log_loss"):
        assert twice[column] == pytest.approx(metrics[column], abs=1e-12)
    assert twice["seconds"] == metrics["seconds"]
    assert (table["backbone"][0], twice["backbone"]) == ("prior", "scratch")
    pd.testing.assert_frame_equal(pd.read_csv(out / "table.csv"), table, check_dtype=False)
    assert (out / "table.md").read_text() == markdown(table)
    assert (out / "table.png").read_bytes().startswith(b"\x89PNG")


def test_differences_are_paired(compared, pairs):
    table, out = compared
    losses = []
    for folder in ("prior", "scores"):
        oof = read_oof(out / folder / "oof.csv").set_index("id").loc[pairs["id"]]
        losses.append(row_log_losses(labels_of(pairs), oof[list(LABEL_COLUMNS)].to_numpy()))
    difference = losses[1] - losses[0]
    low, high = bootstrap_interval(difference, prompt_keys(pairs))
    columns = ["difference", "difference_low", "difference_high"]
    assert table.loc[0, columns].tolist() == [0, 0, 0]
    assert table.loc[1, columns].tolist() == pytest.approx([difference.mean(), low, high])


def test_inference_options_predict_each_row_by_the_model_that_did_not_see_it(compared, pairs):
    table, out = compared
    artifact = Artifact.load(out / "scores")
    twice, once = (v.held_out_probabilities(artifact, pairs) for v in VARIANTS[1:])
    # Scores in [0, 1] are the first softmax, and a second one of them is what training saw.
    again = np.exp(once) / np.exp(once).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(again, twice, atol=1e-6)
    losses = row_log_losses(labels_of(pairs), once)
    assert table.loc[2, "log_loss"] == pytest.approx(losses.mean())
    assert table.loc[2, "peak_memory_gib"] == table.loc[1, "peak_memory_gib"]


def test_all_variants_have_the_same_folds(compared):
    _, out = compared
    prior, scores = (
        read_oof(out / name / "oof.csv")[["id", "fold"]] for name in ("prior", "scores")
    )
    pd.testing.assert_frame_equal(prior, scores)


@pytest.mark.usefixtures("in_this_process")
def test_a_comparison_resumes_where_it_stopped(compared, arena, tmp_path, monkeypatch):
    table, out = compared[0], shutil.copytree(compared[1], tmp_path / "out")
    shutil.rmtree(out / "prior")
    trained = []

    def record(config, *arguments, **options):
        trained.append(config.family)
        train(config, *arguments, **options)

    monkeypatch.setattr(comparison, "train", record)
    again = compare(VARIANTS, arena / "train.csv", out, folds=2)
    assert trained == ["prior"]
    pd.testing.assert_series_equal(again["log_loss"], table["log_loss"])


def test_what_cannot_be_compared(compared, arena, tmp_path):
    csv, out = arena / "train.csv", compared[1]
    with pytest.raises(InputError, match="expected a new folder, or one with a comparison on"):
        compare(VARIANTS, csv, out, folds=3)
    half = Variant("prior", "prior", ("training.validation_fraction=0.5",))
    with pytest.raises(
        InputError, match="prior: its options differ from this comparison's; remove it"
    ):
        compare([half], csv, out, folds=2)
    seeds = [PRIOR, Variant("b", "prior", ("seed=1",))]
    with pytest.raises(
        InputError, match=r"option seed: expected the same seed for all.*got \[1, 42\]"
    ):
        compare(seeds, csv, tmp_path / "x", None)
    whole = Variant("whole", "prior", ("training.validation_fraction=0",))
    with pytest.raises(InputError, match=r"^whole: option training\.validation_fraction: expected"):
        compare([PRIOR, whole], csv, tmp_path / "x", None)
    (tmp_path / "mine").mkdir()
    for name in ("letter.txt", "comparison.json"):
        (tmp_path / "mine" / name).write_text("{}")
        with pytest.raises(InputError, match="mine: expected a new folder"):
            compare([PRIOR], csv, tmp_path / "mine", None)
    assert not (tmp_path / "x").exists()


def test_a_training_on_other_rows_or_folds_is_not_taken_for_this_one(compared, arena, tmp_path):
    csv, out = arena / "train.csv", shutil.copytree(compared[1], tmp_path / "out")
    for rows, folds, told in (
        ("test_labels.csv", 2, "prior: trained on different rows; remove it to train it again"),
        ("train.csv", 3, "prior: trained on different folds; remove it"),
    ):
        shutil.rmtree(out / "prior")
        train(PRIOR.config(), arena / rows, out / "prior", folds)
        with pytest.raises(InputError, match=told):
            compare(VARIANTS, csv, out, folds=2)


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_a_training_from_another_backbone_of_that_name_is_not_taken_for_this_one(
    arena, sentence_encoder, tmp_path
):
    first, second = tmp_path / "a" / "base", tmp_path / "b" / "base"
    for folder in (first, second):
        shutil.copytree(sentence_encoder, folder)
    csv, out = arena / "train.csv", tmp_path / "out"

    def compared(folder):
        return compare([Variant("own", "embedding", (f"model.backbone={folder}",))], csv, out, None)

    table = compared(first)
    pd.testing.assert_frame_equal(compared(second), table)  # the same content
    (second / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    with pytest.raises(InputError, match="own: trained from the weights of a different backbone"):
        compared(second)


def test_a_folder_named_scratch_is_no_backbone(tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path)
    assert comparison.bases_of(load_config("tiny")) == []


def test_the_backbones_of_a_blend_count(sentence_encoder):
    def bases(*overrides):
        return comparison.bases_of(load_config("cpu-best", None, overrides))

    assert bases() == []
    (digest,) = bases(f"model.backbone={sentence_encoder}")
    member = f"embedding model.backbone={sentence_encoder}"
    assert bases(f'model.members=["prior", "{member}"]') == [digest]


@pytest.mark.usefixtures("in_this_process")
def test_a_folder_in_which_nothing_was_trained_is_free(arena, tmp_path):
    with pytest.raises(InputError, match=r"^prior: .*folds"):
        compare([PRIOR], arena / "train.csv", tmp_path / "y", folds=1_000)
    assert not (tmp_path / "y").exists()
    # Without folds a validation fraction of 0 would hold nothing out; with them it does no harm.
    whole = Variant("whole", "prior", ("training.validation_fraction=0",))
    table = compare([whole], arena / "train.csv", tmp_path / "y", folds=2)
    assert table["rows"].tolist() == [120]


def test_a_later_variant_is_checked_before_the_first_is_trained(arena, tmp_path):
    bad = Variant("bad", "tiny", ("model.backbone=no/where",))
    with pytest.raises(InputError, match=r"^bad: .*no/where"):
        compare([PRIOR, bad], arena / "train.csv", tmp_path / "z", None)
    assert not (tmp_path / "z").exists()


def train_or_die(config, train_csv, folder, *rest):
    if folder.name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    run_training(config, train_csv, folder, *rest)


@pytest.mark.slow
def test_each_training_has_a_process_and_one_that_is_killed_is_named(arena, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "run_training", train_or_die)
    with pytest.raises(
        InputError, match=r"^dies: its process ended abruptly; it may have been killed"
    ):
        compare([PRIOR, Variant("dies", "prior")], arena / "train.csv", tmp_path / "a", None)
    assert Artifact.load(tmp_path / "a" / "prior").metrics["rows"] == 24
    assert not (tmp_path / "a" / "dies").exists()


@pytest.mark.usefixtures("in_this_process")
def test_a_training_that_fails_says_why(arena, tmp_path, monkeypatch, capsys):
    class OwnError(Exception):
        """No other process can read it."""

    def fail(*arguments, **options):
        raise OwnError("the true reason")

    monkeypatch.setattr(comparison, "train", fail)
    message = r"^prior: the training failed with OwnError \(the traceback is above\)"
    with pytest.raises(InputError, match=message):
        compare([PRIOR], arena / "train.csv", tmp_path / "a", None)
    assert "the true reason" in capsys.readouterr().err


def test_a_later_comparison_sees_its_own_environment(monkeypatch):
    for value in ("one", "two"):
        monkeypatch.setenv("HUMANPREF_BASE", value)
        with comparison.fresh_processes([PRIOR.config()]) as fresh:
            assert fresh.submit(os.getenv, "HUMANPREF_BASE").result() == value


def test_every_preset_with_every_method():
    variants = variants_of(["tiny", "prior"], {"tiny": "F"}, ["lora", "ia3"], ("seed=1",))
    assert variants == [
        Variant("tiny-lora", "tiny", ("seed=1", "model.backbone=F", "model.peft=lora")),
        Variant("tiny-ia3", "tiny", ("seed=1", "model.backbone=F", "model.peft=ia3")),
        Variant("prior-lora", "prior", ("seed=1", "model.peft=lora")),
        Variant("prior-ia3", "prior", ("seed=1", "model.peft=ia3")),
    ]
    assert variants_of(["prior"], {}, [None], ()) == [PRIOR]
    message = "--backbone: expected one of --presets tiny,prior, got other"
    with pytest.raises(InputError, match=message):
        variants_of(["tiny", "prior"], {"other": "F"}, [None], ())


def test_a_table_is_written_whole_and_rounded(tmp_path):
    table = pd.DataFrame({"name": ["a"], "log_loss": [math.log(3)]})
    write_table(table, tmp_path / "study")
    assert (tmp_path / "study.csv").read_text() == "name,log_loss\na,1.0986122886681098\n"
    assert (tmp_path / "study.md").read_text().splitlines()[2] == "| a | 1.0986 |"
