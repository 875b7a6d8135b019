"""The inference kernel's part in the package: a submission that is kept up to date, whatever fails;
and failures planted in a bundle, in the commit run and in the hidden rerun."""

import functools
import math
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from humanpref.config import load_config
from humanpref.data import check_submission, read_pairs
from humanpref.files import write_json
from humanpref.kaggle.competitions import COMPETITIONS, DEFAULT, WSDM
from humanpref.kaggle.rehearsal.environment import make_environment
from humanpref.kaggle.runtime import infer as inference
from humanpref.kaggle.runtime.infer import SubmissionWriter
from humanpref.kaggle.runtime.infer import infer as infer_rows
from humanpref.models.blend import write_state
from humanpref.models.blend_weights import Blend
from humanpref.runs import schedule
from humanpref.runs import train as experiment
from humanpref.runs.artifact_files import seal
from humanpref.runs.blending import blend
from humanpref.runs.budget import UNREAD, Budget
from humanpref.runs.ensemble import Leaf
from humanpref.runs.predict import predict
from humanpref.schema import ID, InputError
from humanpref.training import device

from ..sampled import sampled
from ..tree import INFER, Tree, copy_dataset, write_manifest


@pytest.fixture
def new_tree(tmp_path) -> Tree:
    return Tree(tmp_path / "kaggle")


class StandIn:
    """A model that answers with one row of probabilities, and fails where it is told to."""

    swap_averaged = False

    def __init__(self, answer, bad_id=None, error=None) -> None:
        self.answer, self.bad_id, self.error = answer, bad_id, error or RuntimeError("no luck")

    def predict_proba(self, pairs):
        if self.bad_id in (*pairs[ID], "every"):
            raise self.error
        return np.tile(self.answer, (len(pairs), 1)).astype(np.float64)

    def costs(self, pairs):
        if self.bad_id in list(pairs[ID]) and isinstance(self.error, Exception):
            raise self.error
        return np.ones(len(pairs))

    def single_order(self):
        return self

    def shorter_variants(self):
        return []


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Slow(StandIn):
    """One that takes some seconds a row, on a clock of the test's own; `others` are shorter
    variants by name."""

    def __init__(self, answer, clock, seconds, bad_id=None, **others) -> None:
        super().__init__(answer, bad_id)
        self.clock, self.seconds, self.others = clock, seconds, others
        self.rows = 0

    def predict_proba(self, pairs):
        self.rows += len(pairs)
        self.clock.now += self.seconds * len(pairs)
        return super().predict_proba(pairs)

    def costs(self, pairs):
        return np.full(len(pairs), self.seconds)

    def shorter_variants(self):
        return list(self.others.items())


A, B, PRIOR = [0.8, 0.1, 0.1], [0.2, 0.3, 0.5], [0.4, 0.3, 0.3]


def write_model(folder: Path, model: object, models: dict[Path, object]) -> None:
    """A stand-in on disk, or a blend of some: a tuple of (weights, mean) and the members."""
    folder.mkdir(parents=True)
    config = {"family": getattr(model, "family", "prior")}
    if isinstance(model, tuple):
        (weights, mean), *members = model
        config = {"family": "blend", "model": {"mean": mean}}
        writers = [
            functools.partial(write_model, model=member, models=models) for member in members
        ]
        write_state(folder, Blend(mean, np.array(weights)), writers)
    models[folder] = model
    write_json(folder / "config.json", config)


@pytest.fixture
def infer(new_tree, monkeypatch):
    """Run `infer` on artifacts with stand-ins as their models; gives the tree."""

    def run(
        *artifacts, block=4, seconds=math.inf, clock=time.monotonic, competition=DEFAULT, classes=3
    ):
        models = {}

        def load(leaf, memos):
            found = models[leaf.folder]
            if isinstance(found, BaseException):
                raise found
            return found

        for number, artifact in enumerate(artifacts):
            folder = new_tree.kernel / str(number)
            members = artifact if isinstance(artifact, list) else [artifact]
            for member, model in enumerate(members):
                write_model(folder / f"fold-{member}", model, models)
            names = [f"fold-{member}" for member in range(len(members))]
            seal(folder, {"format": 1, "members": names, "prior": PRIOR, "classes": classes})
        monkeypatch.setattr(Leaf, "load", load)
        monkeypatch.setattr(schedule, "BLOCK_ROWS", block)
        monkeypatch.setattr(inference, "Budget", functools.partial(Budget, clock=clock))
        paths = new_tree.input, new_tree.working, new_tree.test_csv
        infer_rows(*paths, PRIOR, seconds, competition)
        return new_tree

    return run


def test_the_mean_of_the_artifacts(infer):
    tree = infer(StandIn(A), StandIn(B))
    assert tree.submission() == pytest.approx(np.tile(np.mean([A, B], axis=0), (8, 1)))
    assert [entry["rows"] for entry in tree.status["artifacts"]] == [8, 8]


def test_without_ties_each_model_chooses_between_a_and_b(infer, new_tree):
    # Given that no row is a tie, P(A) is 0.5625 and 0.25: B wins, though A has more in the mean.
    last = new_tree.ids[-1]
    models = [StandIn(p, last) for p in ([0.45, 0.35, 0.2], [0.04, 0.12, 0.84])]
    tree = infer(*models, competition=WSDM)
    submission, columns = tree.working / "submission.csv", COMPETITIONS[WSDM].submission
    assert check_submission(submission, tree.test_csv, columns) == []
    # The last row has the prior, in which A is likelier.
    expected = [f"{key},model_b" for key in tree.ids[:-1]] + [f"{last},model_a"]
    assert submission.read_text().splitlines() == ["id,winner", *expected]


def test_a_model_without_ties_does_not_predict_where_there_are_some(infer):
    tree = infer(StandIn(A), classes=2)
    assert tree.submission() == pytest.approx(np.tile(PRIOR, (8, 1)))
    assert "predicts no ties, but the competition llm-" in tree.status["degraded"][0]


@pytest.mark.parametrize(
    "error",
    sampled(
        [
            InputError("a weight is missing"),
            MemoryError("too large"),
            SystemExit("a library gave up"),
        ],
        every=3,
    ),
)
def test_an_artifact_that_fails_leaves_the_others_alone(infer, caplog, error):
    tree = infer(error, StandIn(B), StandIn(A, "every", SystemExit("bye")))
    assert tree.submission() == pytest.approx(np.tile(B, (8, 1)))
    status = tree.status
    assert (status["predicted"], status["fallback"]) == (8, 0)
    assert f"{type(error).__name__}: {error}" in status["degraded"][0]
    assert any("SystemExit: bye" in failure for failure in status["degraded"][1:])
    assert "Traceback" in caplog.text


def test_a_repeated_id_costs_no_row(infer, new_tree, caplog):
    rows = pd.read_csv(new_tree.test_csv, dtype=str, keep_default_na=False)
    rows.loc[5, ID] = rows.loc[2, ID]
    rows.to_csv(new_tree.test_csv, index=False)
    tree = infer(StandIn(A))
    assert tree.submission() == pytest.approx(np.tile(A, (8, 1)))
    assert (tree.status["predicted"], tree.status["degraded"]) == (8, [])
    assert "row 6" in caplog.text
    assert "duplicate id, first seen in row 3" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("no luck"), MemoryError("too long")])
def test_one_bad_row_costs_one_row(infer, new_tree, error):
    bad = new_tree.ids[5]
    tree = infer(StandIn(A, bad, error))
    expected = np.tile(A, (8, 1))
    expected[5] = PRIOR
    assert tree.submission() == pytest.approx(expected)
    status = tree.status
    assert (status["predicted"], status["fallback"]) == (7, 1)
    assert f"id {bad!r}: {type(error).__name__}" in status["degraded"][0]
    assert status["degraded"][1:] == ["1 of 8 rows have the prior"]


def test_an_artifact_that_always_fails_is_given_up(infer, monkeypatch):
    monkeypatch.setattr(schedule, "MAX_FAILURES", 3)
    tree = infer(StandIn(A, "every"))
    assert tree.submission() == pytest.approx(np.tile(PRIOR, (8, 1)))
    assert "abandoned after 3 failed calls in a row" in tree.status["degraded"][-2]
    assert tree.status["artifacts"][0]["rows"] == 0


@pytest.mark.parametrize(
    "answer", [[np.nan, 0.5, 0.5], [0.5, 0.6, -0.1], [0.5, 0.5, 0.5], [0.5, 0.5]]
)
def test_what_is_no_probability_is_not_used(infer, answer):
    tree = infer(StandIn(answer), StandIn(B))
    assert tree.submission() == pytest.approx(np.tile(B, (8, 1)))
    assert tree.status["degraded"]


def test_an_interruption_keeps_what_is_predicted(infer, new_tree):
    with pytest.raises(KeyboardInterrupt):
        infer(StandIn(A, new_tree.ids[4], KeyboardInterrupt()))
    assert new_tree.submission() == pytest.approx(np.array([A] * 4 + [PRIOR] * 4))
    assert new_tree.status["predicted"] == 4


def test_what_there_is_no_time_for_is_given_up_in_order(infer, new_tree, caplog, monkeypatch):
    """Both folds of a slow model within the time, at every moment a valid submission."""
    written, write, test_csv = [], SubmissionWriter.write, new_tree.test_csv

    def spy(writer):
        write(writer)
        written.append(check_submission(new_tree.working / "submission.csv", test_csv))

    monkeypatch.setattr(SubmissionWriter, "write", spy)
    clock = Clock()
    halves = [Slow(B, clock, 5) for _ in range(2)]
    folds = [Slow(A, clock, 10, half=half) for half in halves]
    tree = infer(folds, seconds=140, clock=clock)  # of 160
    assert clock.now <= 140
    probabilities = tree.submission()
    status = tree.status
    given_up = status["given_up"]["half"]
    assert (status["predicted"], status["fallback"]) == (8, 0)
    assert status["degraded"] == [f"half: {given_up} row predictions (out of time)"]
    assert given_up == sum(half.rows for half in halves)
    assert all(half.rows for half in halves)  # each has its share of the time
    share = given_up / 16
    assert probabilities.mean(axis=0) == pytest.approx(
        share * np.array(B) + (1 - share) * np.array(A)
    )
    assert "rows: half" in caplog.text
    assert f"time budget of 140 s: half: {given_up} row predictions" in caplog.text
    assert len(written) > 4
    assert not any(written)


def test_what_no_variant_has_time_for_keeps_the_prior(infer, caplog):
    clock = Clock()
    tree = infer(Slow(A, clock, 10, half=Slow(B, clock, 5)), seconds=53, clock=clock)
    assert clock.now <= 53
    status = tree.status
    left = status["given_up"][UNREAD]
    assert 0 < left == status["fallback"]
    assert (tree.submission() == np.array(PRIOR)).all(axis=1).sum() == left
    assert f"{UNREAD}: {left} row predictions" in caplog.text


def test_a_bad_row_costs_one_row_where_time_is_short_too(infer, new_tree):
    bad = new_tree.ids[5]
    clock = Clock()
    tree = infer(Slow(A, clock, 10, bad, half=Slow(B, clock, 5, bad)), seconds=70, clock=clock)
    assert (tree.submission() == np.array(PRIOR)).all(axis=1).nonzero()[0].tolist() == [5]
    assert tree.status["given_up"] == {"half": 2}
    assert f"id {bad!r}" in tree.status["degraded"][0]
    assert len(tree.status["degraded"]) == 3  # and the half, and the prior's row


@pytest.mark.parametrize(
    ("variables", "rows"),
    [
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, 0),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch", "KAGGLE_IS_COMPETITION_RERUN": "1"}, 8),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch", device.DRY_RUN: "1"}, 8),
        ({}, 8),
    ],
)
def test_a_model_that_needs_a_gpu_and_has_none(infer, monkeypatch, caplog, variables, rows):
    """In the commit run it fails as one does that cannot be loaded; elsewhere what a CPU can do is
    better than nothing."""
    for name in ("KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_IS_COMPETITION_RERUN", device.DRY_RUN):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(device, "lacking", lambda: "none was found")
    needy = StandIn(A)
    needy.family = "decoder"
    tree = infer(needy, StandIn(B))
    assert [entry["rows"] for entry in tree.status["artifacts"]] == [rows, 8]
    assert "needs a GPU, and none was found" in caplog.text


def test_nobody_looks_for_a_gpu_where_no_model_uses_one(infer, monkeypatch):
    monkeypatch.delattr(device, "lacking")
    assert infer(StandIn(A)).status["predicted"] == 8


@pytest.mark.slow
def test_what_a_quick_model_leaves_over_goes_to_a_slow_one(infer, monkeypatch):
    clock = Clock()
    slow = Slow(A, clock, 10, half=Slow(B, clock, 5))
    slow.family = "embedding"  # a network
    tree = infer(slow, StandIn(B), StandIn(B), seconds=100, clock=clock)
    assert tree.status["given_up"] == {}
    assert [entry["rows"] for entry in tree.status["artifacts"]] == [8, 8, 8]
    assert [entry["log_loss"] for entry in tree.status["artifacts"]] == [None] * 3


def test_the_mean_of_the_artifacts_is_not_that_of_the_models(infer):
    """Three folds count as much as the one model of another artifact, whichever of them fail."""
    third = [1.0, 0.0, 0.0]
    tree = infer([StandIn(A), StandIn(B), StandIn(third)], StandIn(B))
    assert tree.submission() == pytest.approx(
        np.tile(np.mean([np.mean([A, B, third], axis=0), B], axis=0), (8, 1))
    )
    assert [entry["rows"] for entry in tree.status["artifacts"]] == [8, 8]


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_a_blend_mixes_what_its_members_say(infer, mean):
    """Also a blend in a blend, and with a member that cannot be loaded: its weight goes to the
    others."""
    inner = (([0.5, 0.5], mean), StandIn(B), StandIn([0.1, 0.1, 0.8]))
    tree = infer((([0.6, 0.2, 0.2], mean), StandIn(A), inner, InputError("a weight is missing")))
    within = Blend(mean, np.array([0.5, 0.5]))(np.array([[B], [[0.1, 0.1, 0.8]]]))
    expected = Blend(mean, np.array([0.75, 0.25]))(np.stack([np.array([A]), within]))
    assert tree.submission() == pytest.approx(np.tile(expected, (8, 1)))
    (failure,) = tree.status["degraded"]
    assert "member-2: InputError: a weight is missing" in failure


def test_a_row_that_one_member_cannot_is_the_others(infer, new_tree):
    bad = new_tree.ids[5]
    tree = infer((([0.6, 0.4], "geometric"), StandIn(A), StandIn(B, bad)))
    both = Blend("geometric", np.array([0.6, 0.4]))(np.array([[A], [B]]))
    expected = np.tile(both, (8, 1))
    expected[5] = A
    assert tree.submission() == pytest.approx(expected)


@pytest.mark.slow
def test_a_real_blend_is_what_it_is_by_itself(arena, new_tree):
    """The artifacts that `humanpref blend` and training by folds leave, against the command line's
    way."""
    for name, overrides in (("one", ()), ("two", ("model.word_ngrams=1",))):
        experiment.train(
            load_config("sparse", None, list(overrides)),
            arena / "train.csv",
            new_tree.root / name,
            folds=2,
        )
    folder = new_tree.kernel / "blended"
    folder.parent.mkdir(parents=True)
    blended = blend([new_tree.root / "one", new_tree.root / "two"], folder, "geometric")
    infer_rows(new_tree.input, new_tree.working, new_tree.test_csv, PRIOR)
    expected = blended.predict_proba(read_pairs(new_tree.test_csv))
    assert new_tree.submission() == pytest.approx(expected, abs=1e-6)
    assert new_tree.status["degraded"] == []


def test_a_real_blend_knows_special_cases(write_csv, new_tree):
    kinds = [((["a"], ["b"]), 0), ((["a"], ["a"]), 2), (([""], ["b"]), 1), ((["a"], [" "]), 0)]
    rows = [
        ([f"prompt {i}"], *kinds[i % 4][0], (i // 4) % 3 if i % 4 == 0 else kinds[i % 4][1])
        for i in range(120)
    ]
    train_csv = write_csv(rows)
    experiment.train(load_config("prior"), train_csv, new_tree.root / "one", folds=2)
    experiment.train(load_config("prior"), train_csv, new_tree.root / "two", folds=3)
    folder = new_tree.kernel / "blended"
    folder.parent.mkdir(parents=True)
    blended = blend([new_tree.root / "one", new_tree.root / "two"], folder)
    assert blended.metrics["blend"]["rates"]
    write_csv(rows[:8], labels=False).replace(new_tree.test_csv)
    infer_rows(new_tree.input, new_tree.working, new_tree.test_csv, PRIOR)
    told = new_tree.submission()
    assert told == pytest.approx(predict([blended], read_pairs(new_tree.test_csv))[0], abs=1e-6)
    assert told.argmax(axis=1)[[1, 2, 3, 5, 6, 7]].tolist() == [2, 1, 0, 2, 1, 0]


def test_no_artifact_is_an_error_that_shows_the_tree(new_tree):
    with pytest.raises(InputError, match=r"no artifact\.json(.|\n)*test\.csv"):
        infer_rows(new_tree.input, new_tree.working, new_tree.test_csv, PRIOR)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def plant(tree: Tree, module: str, code: str) -> None:
    """Add code to a module of the wheel."""
    wheel = next(tree.dataset.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files[module] += code.encode()
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    write_manifest(tree.dataset)


def lose_the_wheel(tree):
    next(tree.dataset.glob("*.whl")).unlink()


def lose_the_dataset(tree):
    shutil.rmtree(tree.dataset)


def cut_every_weight(tree):
    for path in tree.kernel.rglob("*.safetensors"):
        cut(path)


def cut_one_of_two_artifacts(tree):
    shutil.copytree(tree.kernel / "artifact", tree.kernel / "other")
    for path in (tree.kernel / "other").rglob("*.safetensors"):
        cut(path)


def spoil_one_of_two_artifacts(tree):
    shutil.copytree(tree.kernel / "artifact", tree.kernel / "other")
    cut(tree.kernel / "other" / "artifact.json")


def cut_one_fold(tree):
    cut(next((tree.kernel / "artifact" / "fold-0").glob("*.safetensors")))


def raise_in_row_3(tree):
    bad = tree.ids[2]
    code = """
_predict = PriorModel.predict_proba
def _raise(self, pairs):
    if %r in set(pairs["id"]):
        raise RuntimeError("no luck")
    return _predict(self, pairs)
PriorModel.predict_proba = _raise
"""
    plant(tree, "humanpref/models/prior.py", code % bad)


def run_out_of_time_at_once(tree):
    (tree.dataset / "run.toml").write_text('preset = "prior"\ninference_seconds = 0\n')
    write_manifest(tree.dataset)


def run_out_of_time_after_a_block(tree):
    code = """
# The first model's share, and what is left before its first block.
_answers = iter([1.0, 1.0])
Budget.left = lambda self: next(_answers, 0.0)
"""
    plant(tree, "humanpref/runs/budget.py", code)


# What is done to the tree, how many of the 8 rows are predicted all the same, whether the commit
# run ends well, and what `degraded` says.
PLANTED = [
    (lose_the_dataset, 0, False, "expected one dataset"),
    (lose_the_wheel, 0, False, "neither a file nor an unpacked wheel"),
    (cut_every_weight, 0, False, "model.safetensors"),
    (cut_one_of_two_artifacts, 8, False, "other/fold-0"),
    (spoil_one_of_two_artifacts, 8, False, "other: "),
    (cut_one_fold, 8, True, "artifact/fold-0"),
    (raise_in_row_3, 7, True, "RuntimeError: no luck"),
    (run_out_of_time_at_once, 0, False, "TimeoutError: stopped after"),
    (run_out_of_time_after_a_block, 4, True, "row predictions (out of time)"),
]


@pytest.fixture(scope="module")
def folds(arena, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("folds") / "artifact"
    experiment.train(load_config("prior"), arena / "train.csv", folder, folds=2)
    return folder


@pytest.mark.parametrize(
    ("fault", "predicted", "ends_well", "reason"),
    sampled(PLANTED, every=len(PLANTED)),
    ids=[fault.__name__ for fault, *_ in PLANTED],
)
def test_a_failure_in_a_bundle(wheels, folds, tmp_path, fault, predicted, ends_well, reason):
    tree, environment = Tree(tmp_path / "kaggle"), make_environment(tmp_path / "environment")
    copy_dataset(wheels, tree.dataset)
    shutil.copytree(folds, tree.kernel / "artifact")
    fault(tree)
    for rerun in (False, True):
        done = tree.run(INFER, environment, rerun)
        status = tree.status
        assert status["run"] == ("rerun" if rerun else "commit")
        assert done.returncode == (0 if rerun or ends_well else 1), done.stdout + done.stderr
        assert (status["predicted"], status["fallback"]) == (predicted, 8 - predicted)
        assert any(reason in text for text in status["degraded"]), status["degraded"]
        assert not any("\n" in text for text in status["degraded"])
        assert (tree.submission() == status["prior"]).all(axis=1).sum() >= 8 - predicted
        if done.returncode:
            assert done.stderr.splitlines()[-1].startswith("RuntimeError: ")
            assert reason in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("metrics", "loss"),
    [({"log_loss": 1.01}, 1.01), ({}, None), ({"log_loss": None}, None), ([1], None), (None, None)],
)
def test_the_held_out_log_loss_of_an_artifact(infer, metrics, loss):
    """It is in the status; metrics that cannot be read end no submission."""
    tree = infer(StandIn(A))
    if metrics is not None:
        write_json(tree.kernel / "0" / "metrics.json", metrics)
    infer_rows(tree.input, tree.working, tree.test_csv, PRIOR, math.inf, DEFAULT)
    (entry,) = tree.status["artifacts"]
    assert (entry["rows"], entry["log_loss"]) == (8, loss)
