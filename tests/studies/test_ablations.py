"""The comparison and the ablation, on micro models: tables, figures, the same folds, going on after
an interruption."""

import json
import os
import shutil
import signal

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from humanpref.config.neural import SYSTEM_PROMPT
from humanpref.data import write_pairs
from humanpref.runs.artifact_tables import read_oof
from humanpref.schema import LABEL_COLUMNS, InputError
from humanpref.studies import ablations
from humanpref.studies import compare as comparison
from humanpref.studies.ablations import ARMS, SOFTMAX_BOUND, ablate_softmax, ablate_system_prompt
from humanpref.studies.compare import Contender, compare, markdown
from humanpref.training.losses import cross_entropy

MICRO = (
    "model.max_length=24",
    "model.scratch_hidden_size=8",
    "model.scratch_vocabulary=300",
    "training.learning_rate=1e-2",
)
CONTENDERS = [
    Contender("prior", "prior"),
    Contender("linear", "tiny", MICRO),
    Contender("tie", "tiny", (*MICRO, "model.head=davidson")),
]


@pytest.fixture(scope="module")
def compared(arena, tmp_path_factory):
    out = tmp_path_factory.mktemp("studies") / "comparison"
    return compare(CONTENDERS, arena / "train.csv", out, folds=2), out


def test_the_comparison_is_a_table_and_a_figure(compared):
    table, out = compared
    assert table["name"].tolist() == ["prior", "linear", "tie"]
    assert (table["rows"] == 120).all()
    assert (table["log_loss_low"] < table["log_loss"]).all()
    assert (table["log_loss"] < table["log_loss_high"]).all()
    trained = table[1:]
    assert (trained["tokens_per_second"] > 0).all()
    assert trained["peak_memory_gib"].between(0.05, 8).all()
    assert trained["parameters"].between(1_000, 20_000).all()
    pd.testing.assert_frame_equal(pd.read_csv(out / "table.csv"), table, check_dtype=False)
    assert (out / "table.md").read_text() == markdown(table)
    assert (out / "table.png").read_bytes().startswith(b"\x89PNG")


def test_all_contenders_stand_on_the_same_folds(compared):
    _, out = compared
    folds = [read_oof(out / contender.name / "oof.csv")[["id", "fold"]] for contender in CONTENDERS]
    for other in folds[1:]:
        pd.testing.assert_frame_equal(other, folds[0])


def test_a_comparison_goes_on_where_it_stopped(compared, arena, monkeypatch):
    table, out = compared
    shutil.rmtree(out / "tie")
    trained = []
    result = comparison.result_of

    def spy(contender, fresh, call, *arguments):
        if call is comparison.run_training:
            trained.append(contender.name)
        return result(contender, fresh, call, *arguments)

    monkeypatch.setattr(comparison, "result_of", spy)
    again = compare(CONTENDERS, arena / "train.csv", out, folds=2)
    assert trained == ["tie"]
    np.testing.assert_allclose(again["log_loss"], table["log_loss"], atol=1e-9)


def test_what_cannot_be_compared(compared, arena, tmp_path, write_csv):
    _, out = compared
    with pytest.raises(InputError, match="other rows, the same in another order, or other folds"):
        compare(CONTENDERS, arena / "train.csv", out, folds=3)
    with pytest.raises(InputError, match="prior: trained with other options"):
        compare(
            [Contender("prior", "prior", ("training.validation_fraction=0.5",))],
            arena / "train.csv",
            out,
            folds=2,
        )
    with pytest.raises(InputError, match="seeds differ"):
        compare(
            [Contender("a", "prior"), Contender("b", "prior", ("seed=1",))],
            arena / "train.csv",
            tmp_path / "x",
            None,
        )
    with pytest.raises(InputError, match="stands twice"):
        compare(
            [Contender("a", "prior"), Contender("a", "prior")],
            arena / "train.csv",
            tmp_path / "x",
            None,
        )
    (tmp_path / "mine").mkdir()
    for name in ("comparison.json", "file"):
        (tmp_path / "mine" / name).write_text("{}")
        with pytest.raises(InputError, match="not a comparison"):
            compare(CONTENDERS[:1], arena / "train.csv", tmp_path / "mine", None)
    with pytest.raises(InputError, match=r"^prior: .*folds"):
        compare(CONTENDERS[:1], arena / "train.csv", tmp_path / "y", folds=1_000)
    # Nothing has been trained there: the corrected command may take the folder.
    assert compare(CONTENDERS[:1], arena / "train.csv", tmp_path / "y", folds=2)[
        "rows"
    ].tolist() == [120]


def untrained(*arguments):
    raise AssertionError("trained")


def test_nothing_is_trained_before_all_that_is_there_is_checked(
    compared, arena, tmp_path, monkeypatch
):
    monkeypatch.setattr(comparison, "run_training", untrained)
    whole = Contender("whole", "prior", ("training.validation_fraction=0",))
    with pytest.raises(
        InputError, match=r"^whole: option training\.validation_fraction: expected more than 0"
    ):
        compare([CONTENDERS[0], whole], arena / "train.csv", tmp_path / "x", None)
    assert not (tmp_path / "x").exists()
    out = shutil.copytree(compared[1], tmp_path / "out")
    shutil.rmtree(out / "prior")
    other = Contender("tie", "tiny", (*MICRO, "training.epochs=7"))
    with pytest.raises(
        InputError, match="tie: trained with other options or rows, or the same in another order"
    ):
        compare([CONTENDERS[0], other], arena / "train.csv", out, folds=2)


def test_a_later_contender_is_checked_before_the_first_is_trained(arena, tmp_path):
    bad = Contender("bad", "tiny", ("model.backbone=no/where",))
    with pytest.raises(InputError, match=r"^bad: .*no/where"):
        compare([CONTENDERS[0], bad], arena / "train.csv", tmp_path / "z", None)
    assert not (tmp_path / "z").exists()


def killed(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_contender_that_is_killed_is_named(arena, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "run_training", killed)
    message = f"^{CONTENDERS[0].name}: its process ended at once: killed"
    with pytest.raises(InputError, match=message):
        compare(CONTENDERS[:1], arena / "train.csv", tmp_path / "a", None)


def test_a_training_that_fails_says_why(monkeypatch, capsys):
    class OfItsOwnError(Exception):
        """No other process can read it."""

    def failing(*arguments):
        raise OfItsOwnError("the true reason")

    monkeypatch.setattr(comparison, "train", failing)
    reason = comparison.run_training(None, None, None, None)
    assert reason == "its training failed with OfItsOwnError (the traceback is above)"
    assert "the true reason" in capsys.readouterr().err


def test_a_later_comparison_sees_its_own_environment(monkeypatch):
    for value in ("one", "two"):
        monkeypatch.setenv("HUMANPREF_BASE", value)
        with comparison.fresh_processes(CONTENDERS[:1]) as fresh:
            assert fresh.submit(os.getenv, "HUMANPREF_BASE").result() == value


def assert_judged_by_held_out_rows(table, out, pairs):
    """Every arm by the rows that its training held out, and by the model that did not learn from
    them."""
    for arm in (arm for arm in ablations.ARMS if arm.at_inference == "softmax"):
        oof = read_oof(out / arm.trained / "oof.csv").set_index("id")[list(LABEL_COLUMNS)]
        assert len(oof) == 80
        labels = pairs.set_index("id").loc[oof.index, list(LABEL_COLUMNS)]
        losses = -np.log((oof * labels).sum(axis=1))
        assert table.loc[arm.name, "log_loss"] == pytest.approx(losses.mean(), abs=1e-6)


@pytest.mark.parametrize(
    "arms", [ARMS[2:5:2], pytest.param(ARMS, marks=pytest.mark.slow)], ids=["one training", "all"]
)
def test_the_softmax_ablation(pairs, tmp_path, monkeypatch, arms):
    monkeypatch.setattr(ablations, "ARMS", arms)
    # Rows of weight 0 are dropped before a training makes its folds.
    write_pairs(
        tmp_path / "train.csv",
        pairs.assign(weight=np.where(np.arange(len(pairs)) % 3 == 0, 0.0, 1.0)),
    )
    overrides = (*MICRO, "training.swap_augmentation=false")
    table = ablate_softmax("tiny", overrides, tmp_path / "train.csv", tmp_path / "a", folds=2)
    assert table["name"].tolist() == [arm.name for arm in arms]
    by_name = table.set_index("name")
    if arms == ARMS:
        # The log-softmax of a log-softmax is itself.
        same = ["none / softmax, 1 epoch", "log-softmax / softmax, 1 epoch"]
        for column in ("log_loss", "train_loss"):
            assert by_name.loc[same, column].diff().iloc[1] == pytest.approx(0, abs=1e-5)
    # What has been through a softmax is bolder without the second one.
    damped, bare = by_name.loc["softmax / softmax, 1 epoch"], by_name.loc["softmax / none, 1 epoch"]
    assert damped["log_loss"] != bare["log_loss"]
    assert (tmp_path / "a" / "softmax.png").read_bytes().startswith(b"\x89PNG")
    assert (
        json.loads((tmp_path / "a" / "softmax-1" / "artifact.json").read_text())["preset"] == "tiny"
    )
    oof = read_oof(tmp_path / "a" / "softmax-1" / "oof.csv")[list(LABEL_COLUMNS)].to_numpy()
    assert oof.max() <= np.e / (np.e + 2) + 1e-9
    assert_judged_by_held_out_rows(by_name, tmp_path / "a", pairs)


@pytest.mark.slow
def test_the_system_prompt_ablation(arena, decoder_folder, tmp_path):
    pytest.importorskip("peft")
    overrides = (
        f"model.backbone={decoder_folder()}",
        "model.max_length=256",
        "training.learning_rate=1e-2",
    )
    table = ablate_system_prompt(
        "llama-3.2-1b-lora", overrides, arena / "train.csv", tmp_path / "a", None
    )
    assert table["name"].tolist() == ["without", "with"]
    assert table["system_prompt"].tolist() == ["", SYSTEM_PROMPT]
    told = {}
    for arm in ("without", "with"):
        oof = read_oof(tmp_path / "a" / arm / "oof.csv")
        config = json.loads((tmp_path / "a" / arm / "model" / "config.json").read_text())
        told[arm] = config.pop("model"), config, oof
    (bare, rest, oof), (prompted, other_rest, other) = told.values()
    assert (bare.pop("system_prompt"), prompted.pop("system_prompt")) == ("", SYSTEM_PROMPT)
    assert (bare, rest) == (prompted, other_rest)
    pd.testing.assert_frame_equal(oof[["id", "fold"]], other[["id", "fold"]])
    labels = (
        pd.read_csv(arena / "train.csv", dtype={"id": str})
        .set_index("id")
        .loc[oof["id"], list(LABEL_COLUMNS)]
    )
    losses = [
        -np.log((f[list(LABEL_COLUMNS)].to_numpy() * labels.to_numpy()).sum(axis=1))
        for f in (oof, other)
    ]
    np.testing.assert_allclose(table["log_loss"], np.mean(losses, axis=1))
    arm = table.iloc[1]
    assert arm["difference"] == pytest.approx(np.mean(losses[1] - losses[0]))
    assert arm["difference_low"] < arm["difference"] < arm["difference_high"]
    assert (
        arm["difference_high"] - arm["difference_low"] < arm["log_loss_high"] - arm["log_loss_low"]
    )
    assert (tmp_path / "a" / "system-prompt.md").read_text() == markdown(table)
    assert (tmp_path / "a" / "system-prompt.png").read_bytes().startswith(b"\x89PNG")


def test_a_family_without_a_system_prompt_has_no_such_ablation(arena, tmp_path):
    with pytest.raises(InputError, match="--preset sparse: expected one of family decoder or dpo"):
        ablate_system_prompt("sparse", (), arena / "train.csv", tmp_path / "a", None)
    assert not (tmp_path / "a").exists()


def test_the_bound():
    """Reached by the boldest scores, and by no others."""
    torch = pytest.importorskip("torch")
    logits = torch.tensor([[50.0, 0.0, 0.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0], [-5.0, 0.0, 0.0]])
    labels = torch.tensor([[1.0, 0.0, 0.0]]).expand(4, 3)
    losses = cross_entropy(logits.softmax(dim=-1), labels)
    assert losses[0].item() == pytest.approx(SOFTMAX_BOUND, abs=1e-6)
    assert (losses[1:] > SOFTMAX_BOUND).all()
