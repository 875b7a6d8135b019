"""What the commands pass on; what they do is tested where it is done."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from humanpref.kaggle.bundle import assemble
from humanpref.kaggle.bundle import check as bundle_check
from humanpref.kaggle.contract import TRAIN_SECONDS, KernelRun
from humanpref.kaggle.rehearsal import dry_run as rehearsal

from .refusals import refused


@pytest.fixture
def bundles(monkeypatch):
    """The arguments of every bundle that is asked for."""
    seen = []
    monkeypatch.setattr(assemble, "bundle", lambda project, out, *rest: seen.append(rest) or out)
    return seen


def test_a_bundle_has_the_default_limits(run, bundles):
    code, out, _ = run("kaggle", "bundle")
    assert code == 0
    told = "20% of the rows are held out for a score; --all-rows trains on all of them"
    assert out.splitlines() == [
        "bundle: bundle; predicts with the model trained with preset sparse",
        told,
    ]
    assert bundles == [(KernelRun("sparse"), [], None, None)]
    assert bundles[0][0].train_seconds == TRAIN_SECONDS


def test_a_bundle_that_trains_on_all_rows(run, bundles):
    code, out, _ = run("kaggle", "bundle", "--all-rows", "--set", "seed=3")
    assert (code, len(out.splitlines())) == (0, 1)
    assert bundles[0][0].overrides == ("seed=3", "training.validation_fraction=0")
    assert bundles[0][0].config.training.validation_fraction == 0


def test_a_bundle_with_everything(run, bundles):
    flags = ["--preset", "prior", "--set", "seed=3", "--folds", 4]
    flags += ["--train-hours", 2, "--infer-hours", 0.5]
    flags += ["--artifact", "A", "--nltk", "--image", "freeze.txt", "--out", "B"]
    code, out, _ = run("kaggle", "bundle", *flags)
    assert code == 0
    models = "A, the model trained with preset prior"
    assert out == f"bundle: B; predicts with the unweighted mean of {models}\n"
    expected = KernelRun(
        "prior", ("seed=3",), folds=4, train_seconds=7_200.0, inference_seconds=1_800.0
    )
    assert bundles == [(expected, [Path("A")], [], Path("freeze.txt"))]


def test_an_artifact_alone_trains_nothing(run, bundles):
    assert run("kaggle", "bundle", "--artifact", "A")[0] == 0
    assert bundles[0][0].preset == ""
    for flags in (("--folds", 2), ("--set", "seed=1"), ("--train-hours", 1)):
        refused(run("kaggle", "bundle", "--artifact", "A", *flags), "add --preset")


def test_a_limit_of_no_time_is_refused(run, bundles):
    refused(run("kaggle", "bundle", "--train-hours", 0), "train_seconds", "above 0", "got 0")
    assert bundles == []


@pytest.mark.parametrize(("levels", "code"), [((), 0), (("warning",), 0), (("error",), 1)])
def test_check_counts_and_fails_on_errors(run, monkeypatch, levels, code):
    findings = [SimpleNamespace(level=level) for level in levels]
    monkeypatch.setattr(bundle_check, "check_bundle", lambda folder: findings)
    result, out, _ = run("kaggle", "check", "--bundle", "B")
    errors = levels.count("error")
    assert result == code
    assert out.splitlines()[-1] == f"{errors} errors, {len(levels) - errors} warnings"


@pytest.mark.parametrize("failing", [None, "new", "legacy"])
def test_both_layouts_have_folders_of_their_own(run, monkeypatch, failing):
    runs = []

    def dry_run(rehearsed, say):
        runs.append(rehearsed)
        return SimpleNamespace(passed=rehearsed.layout != failing, render=lambda: "report")

    monkeypatch.setattr(rehearsal, "dry_run", dry_run)
    code, out, _ = run("kaggle", "dry-run", "--layout", "both", "--rows", 9, "--out", "D")
    assert (code, out) == (int(failing is not None), "report\nreport\n")
    assert [(each.layout, each.out, each.test_rows) for each in runs] == [
        ("new", Path("D/new"), 9),
        ("legacy", Path("D/legacy"), 9),
    ]
