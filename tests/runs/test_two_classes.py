"""Pairs without ties from the file to the page: two classes by the option or by the format, never
mixed with three."""

import numpy as np
import pytest

from humanpref.config import load_config
from humanpref.data import Extra, labels_of, read_pairs, read_training_rows, sources, write_pairs
from humanpref.reports.evaluate import evaluate, write_evaluation
from humanpref.runs.blending import blend
from humanpref.runs.distillation import Teacher, soft_labels, taught, write_soft_labels
from humanpref.runs.predict import predict
from humanpref.runs.stages import Earlier
from humanpref.runs.train import train
from humanpref.schema import LABEL_COLUMNS, InputError

TIE = LABEL_COLUMNS[2]
TWO = "training.classes=2"


def config(preset="prior", *options):
    own = ("model.term_penalties=10", "model.structure_penalties=100") if preset == "sparse" else ()
    return load_config(preset, None, [*own, *options])


@pytest.fixture(scope="module")
def decided(pairs, tmp_path_factory):
    """A file with the arena's rows that are not ties; its column of ties is all 0."""
    path = tmp_path_factory.mktemp("decided") / "decided.csv"
    write_pairs(path, pairs[pairs[TIE] == 0])
    return path


@pytest.fixture
def without_column(monkeypatch):
    """Read every file as one whose format has no ties."""
    read = sources.read_pairs
    monkeypatch.setattr(
        sources, "read_pairs", lambda *args, **kwargs: read(*args, **kwargs).drop(columns=TIE)
    )


@pytest.fixture(scope="module")
def two(decided, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return [
        train(config(preset, TWO), decided, folder / preset, folds=2)
        for preset in ("sparse", "prior")
    ]


@pytest.fixture(scope="module")
def three(arena, tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    return train(config("sparse"), arena / "train.csv", folder / "three", folds=2)


def test_by_option_and_by_format(two, decided, without_column, tmp_path, caplog):
    by_format = train(config("sparse"), decided, tmp_path / "by-format", folds=2)
    assert not [each for each in caplog.records if each.levelname == "WARNING"]
    for artifact in (two[0], by_format):
        assert artifact.facts["classes"] == artifact.classes == 2
        assert artifact.prior[2] == 0
        told = artifact.oof[list(LABEL_COLUMNS)].to_numpy()
        np.testing.assert_array_equal(told[:, 2], 0)
        np.testing.assert_allclose(told.sum(axis=1), 1, atol=1e-12)
        assert artifact.metrics["decided_rows"] == artifact.metrics["rows"] == len(told)
        assert artifact.metrics["decided_accuracy"] == artifact.metrics["accuracy"]
        assert 0 < artifact.metrics["prior_log_loss"] < 0.75
    np.testing.assert_array_equal(by_format.oof, two[0].oof)


def test_a_column_of_ties_that_is_all_zero_keeps_three_classes(decided, tmp_path, caplog):
    artifact = train(config(), decided, tmp_path / "a")
    assert artifact.classes == 3
    (warning,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert warning.endswith(
        "in column 'winner_tie'; are the labels correct? (without ties, set training.classes=2)"
    )


def test_three_classes_can_be_asked_for(decided, without_column):
    rows = read_training_rows(decided, classes=3)
    assert rows.ties
    assert (rows.pairs[TIE] == 0).all()


def test_ties_are_refused_with_their_rows(arena, pairs, decided, without_column, tmp_path):
    first = np.flatnonzero(pairs[TIE]) + 1
    message = (
        f"train.csv: row {', '.join(map(str, first[:5]))} …: expected no ties, since the model has"
    )
    sources.read_pairs = read_pairs
    with pytest.raises(InputError, match=message):
        train(config("prior", TWO), arena / "train.csv", tmp_path / "a")
    with pytest.raises(InputError, match=message):
        read_training_rows(decided, [Extra(arena / "train.csv")], classes=2)
    # A row of weight 0 teaches nothing.
    weighted = pairs.assign(weight=1.0 - pairs[TIE])
    write_pairs(tmp_path / "weighted.csv", weighted)
    assert train(config("prior", TWO), tmp_path / "weighted.csv", tmp_path / "b").prior[2] == 0


@pytest.mark.slow
def test_a_blend_rules_ties_out_exactly(two, decided, tmp_path):
    rows = read_pairs(decided)
    for mean in ("arithmetic", "geometric"):
        blended = blend([each.folder for each in two], tmp_path / mean, mean)
        assert blended.classes == 2
        for told in (blended.predict_proba(rows), blended.oof[list(LABEL_COLUMNS)].to_numpy()):
            np.testing.assert_array_equal(told[:, 2], 0)
            np.testing.assert_allclose(told.sum(axis=1), 1, atol=1e-12)
    mean, _ = predict(two, rows)
    expected = np.mean([each.predict_proba(rows) for each in two], axis=0)
    np.testing.assert_allclose(mean, expected, atol=1e-12)
    np.testing.assert_array_equal(mean[:, 2], 0)


def test_two_and_three_classes_do_not_mix(two, three, decided, tmp_path):
    rows = read_pairs(decided)
    message = "three: has 3 classes, but .*sparse has 2; models with and without ties cannot be"
    for combine in (predict, soft_labels):
        with pytest.raises(InputError, match=message):
            combine([two[0], three], rows)
    forced = train(config("sparse"), decided, tmp_path / "three", folds=2)
    with pytest.raises(InputError, match=message):
        blend([two[0].folder, forced.folder], tmp_path / "blend")


def test_a_student_without_ties_learns_what_its_teacher_thinks_of_the_others(
    two, three, decided, tmp_path
):
    rows = read_training_rows(decided, classes=2)
    targets = taught(rows, [Teacher(three.folder, 0.5)]).targets
    told = soft_labels([three], rows.pairs)[:, :2]
    expected = (told / told.sum(axis=1, keepdims=True) + rows.targets[:, :2]) / 2
    np.testing.assert_allclose(targets, np.pad(expected, [(0, 0), (0, 1)]), atol=1e-12)
    # Its soft labels say that there are no ties, and so teach no row that may be one.
    write_soft_labels(tmp_path / "soft.csv", two, read_pairs(decided, labels=False))
    assert not read_training_rows(tmp_path / "soft.csv").ties
    for teacher, name in ((two[0].folder, "sparse"), (tmp_path / "soft.csv", "soft.csv")):
        with pytest.raises(InputError, match=f"{name}: has no probabilities of ties, so it"):
            taught(read_training_rows(decided), [Teacher(teacher)])


@pytest.mark.slow
def test_an_evaluation_has_no_ties_to_show(two, three, arena, decided, caplog):
    metrics, tables = evaluate(two[:1], read_pairs(decided))
    assert "P(tie)" not in caplog.text
    (numbers,) = metrics["artifacts"].values()
    assert np.shape(numbers["confusion"]) == (2, 2)
    assert [each["label"] for each in numbers["per_class"]] == ["A", "B"]
    assert set(tables["reliability"]["label"]) == {"A", "B"}
    assert "P(tie)" not in tables["worst"]
    rows = read_pairs(arena / "train.csv")
    tied = int(labels_of(rows)[:, 2].sum())
    message = rf"sparse: row .* expected no ties, since .* two classes, got {tied} of 120 rows"
    with pytest.raises(InputError, match=message):
        evaluate(two, rows)
    with pytest.raises(InputError, match=message):
        evaluate([three, *two], rows)
    assert "so compare the decided metrics" in caplog.text


@pytest.mark.slow
def test_the_page_of_two_classes(two, decided, tmp_path):
    pytest.importorskip("matplotlib")
    write_evaluation(tmp_path / "page", "Two", *evaluate(two, read_pairs(decided)))
    page = (tmp_path / "page" / "index.html").read_text()
    assert "decided auc" in page
    assert "predicted B" in page
    assert "predicted tie" not in page


@pytest.mark.slow
@pytest.mark.parametrize("order", [(3, 2), (2, 3)])
def test_a_stage_may_have_other_classes_than_the_one_before(arena, decided, tmp_path, order):
    pytest.importorskip("torch")
    small = ["model.max_length=48", "model.scratch_hidden_size=8", "model.scratch_vocabulary=300"]
    files = {2: decided, 3: arena / "train.csv"}
    earlier = None
    for classes in order:
        options = [*small, "training.epochs=1", f"training.classes={classes}"]
        stage = config("tiny", *options)
        out = tmp_path / str(classes)
        artifact = train(stage, files[classes], out, earlier=earlier)
        assert artifact.classes == classes
        told = artifact.predict_proba(read_pairs(arena / "test.csv"))
        assert (told[:, 2] > 0).all() == (classes == 3)
        earlier = Earlier(out, drop_learned=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "options"),
    [("llama-3.2-1b-lora", ["model.question=Which?"]), ("llama-3.2-1b-dpo", [])],
)
def test_a_merged_model_has_no_ties_either(decided, decoder_folder, tmp_path, preset, options):
    pytest.importorskip("peft")
    from humanpref.runs.merging import merge

    options = [*options, f"model.backbone={decoder_folder()}", "model.max_length=128", TWO]
    train(config(preset, "model.system_prompt=", *options), decided, tmp_path / "folds", folds=2)
    merged = merge(tmp_path / "folds", tmp_path / "merged")
    assert merged.classes == 2
    told = merged.predict_proba(read_pairs(decided))
    np.testing.assert_array_equal(told[:, 2], 0)
    np.testing.assert_allclose(told.sum(axis=1), 1, atol=1e-12)
