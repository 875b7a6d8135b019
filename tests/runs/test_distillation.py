"""Soft labels: a teacher's probabilities alone or mixed with the labels, and no label of a row
repeated to a student."""

import dataclasses
import importlib.util
import logging
import shutil

import numpy as np
import pandas as pd
import pytest

from humanpref.config import load_config
from humanpref.data import Extra, labels_of, read_pairs, read_training_rows, swap_pairs, write_pairs
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_files import seal
from humanpref.runs.distillation import Teacher, soft_labels, taught, write_soft_labels
from humanpref.runs.train import train
from humanpref.schema import LABEL_COLUMNS, InputError

SMALL = ["model.term_penalties=3", "model.structure_penalties=10"]
SPARSE = load_config("sparse", overrides=SMALL)
HAS_TORCH = importlib.util.find_spec("torch") is not None
WHOLE = ["training.validation_fraction=0"]


@pytest.fixture(scope="module")
def teacher(arena, tmp_path_factory):
    return train(SPARSE, arena / "train.csv", tmp_path_factory.mktemp("teacher") / "folds", folds=2)


def told_by(artifact):
    return artifact.oof[list(LABEL_COLUMNS)].to_numpy()


def test_a_teacher_repeats_no_label_that_it_was_shown(teacher, arena, pairs):
    told = soft_labels([teacher], pairs)
    np.testing.assert_array_equal(told, told_by(teacher))
    assert np.abs(told - teacher.predict_proba(pairs)).max() > 0.02  # which is what it must not say
    new = read_pairs(arena / "test.csv")
    np.testing.assert_array_equal(soft_labels([teacher], new), teacher.predict_proba(new))
    order = [7, 3, 100]
    mixed = pd.concat([pairs.iloc[order], new], ignore_index=True)
    np.testing.assert_allclose(soft_labels([teacher], mixed)[:3], told_by(teacher)[order])
    np.testing.assert_allclose(
        soft_labels([teacher], mixed)[3:], teacher.predict_proba(new), atol=1e-12
    )


def test_a_row_with_its_answers_exchanged_is_one_that_the_teacher_knows(teacher, pairs):
    """Its label is that of the row, mirrored: figures on such rows flatter, and the row's own
    prediction is not of them."""
    exchanged = swap_pairs(pairs[pairs["response_a"] != pairs["response_b"]])
    assert teacher.knows(exchanged).all()
    assert np.isnan(teacher.out_of_fold(exchanged)).all()
    with pytest.raises(InputError, match=f"was trained on {len(exchanged)} of these rows"):
        soft_labels([teacher], exchanged)


def test_a_teacher_repeats_no_label_of_its_extra_rows(arena, pairs, tmp_path):
    write_pairs(tmp_path / "train.csv", pairs[:60])
    write_pairs(tmp_path / "more.csv", pairs[60:66])
    config, more = load_config("prior"), [Extra(tmp_path / "more.csv")]
    artifact = train(config, tmp_path / "train.csv", tmp_path / "a", folds=2, extra=more)
    # They were never held out, so that there is nothing else to say of them.
    with pytest.raises(InputError, match="was trained on 6 of these rows"):
        soft_labels([artifact], pairs[58:66])


def extra_with_the_same_ids(pairs, folder, **changed):
    """The first 60 rows to train on, and 6 rows with the ids of the first 6 as extra ones;
    `changed` are their columns."""
    write_pairs(folder / "train.csv", pairs[:60])
    other = pairs[60:66].reset_index(drop=True).assign(id=pairs["id"][:6], **changed)
    write_pairs(folder / "more.csv", other)
    return folder / "train.csv", [Extra(folder / "more.csv")], other


def test_an_extra_row_is_not_the_training_row_of_its_id(pairs, tmp_path):
    train_csv, more, other = extra_with_the_same_ids(pairs, tmp_path)
    artifact = train(SPARSE, train_csv, tmp_path / "a", folds=2, extra=more)
    # It was never held out, so that there is nothing to say of it but its label.
    with pytest.raises(
        InputError,
        match=f"trained on 6 of these rows .*id '{other['id'][0]}'.* no out-of-fold prediction",
    ):
        write_soft_labels(tmp_path / "soft.csv", [artifact], other)
    both = pd.concat([pairs[6:9], other], ignore_index=True)
    with pytest.raises(InputError, match="trained on 6 of these rows"):
        soft_labels([artifact], both)
    np.testing.assert_array_equal(soft_labels([artifact], pairs[:60]), told_by(artifact))


def test_a_row_of_the_same_id_and_prompt_with_other_answers_is_another_row(
    teacher, pairs, tmp_path
):
    few = pairs[:6].assign(response_a=pairs["response_a"][6:12].tolist())
    told = soft_labels([teacher], few)
    np.testing.assert_array_equal(told, teacher.predict_proba(few))
    assert np.abs(told - told_by(teacher)[:6]).max() > 0.02
    # As an extra row it is known, and nothing is known of it but its label.
    train_csv, more, other = extra_with_the_same_ids(pairs, tmp_path, prompt=pairs["prompt"][:6])
    artifact = train(load_config("prior"), train_csv, tmp_path / "a", folds=2, extra=more)
    with pytest.raises(InputError, match="trained on 6 of these rows"):
        soft_labels([artifact], other)
    # A copy of a training row shares its prompt, and is left out with it.
    write_pairs(tmp_path / "more.csv", pairs[:6])
    artifact = train(load_config("prior"), train_csv, tmp_path / "b", folds=2, extra=more)
    told = told_by(artifact)
    both_orders = (told + told[:, [1, 0, 2]]) / 2
    np.testing.assert_allclose(soft_labels([artifact], pairs[:60]), both_orders, atol=1e-12)


def test_a_raw_frame_is_known_as_the_file_is(teacher, arena):
    np.testing.assert_array_equal(
        soft_labels([teacher], pd.read_csv(arena / "train.csv")), told_by(teacher)
    )


def test_rows_under_other_ids_are_warned_of(teacher, pairs, caplog):
    renamed = pairs[:5].assign(id=[f"new-{i}" for i in range(5)])
    soft_labels([teacher], renamed)
    assert "was trained on other rows with the prompts of 5 rows" in caplog.text
    # The same id with another text is another row.
    caplog.clear()
    with caplog.at_level(logging.INFO):
        soft_labels([teacher], pairs[:1].assign(prompt=[("quite another prompt",)]))
    assert "share a prompt" not in caplog.text
    assert "out-of-fold" not in caplog.text


def test_a_teacher_without_out_of_fold_predictions_is_refused(arena, tmp_path):
    rows = read_training_rows(arena / "train.csv")
    whole = train(load_config("prior", overrides=WHOLE), arena / "train.csv", tmp_path / "whole")
    with pytest.raises(InputError, match="was trained on 120 of these rows"):
        taught(rows, [Teacher(whole.folder)])
    fifth = train(load_config("prior"), arena / "train.csv", tmp_path / "fifth")
    with pytest.raises(
        InputError, match=r"was trained on 9\d of these rows .* train it with --folds"
    ):
        taught(rows, [Teacher(fifth.folder)])
    (fifth.folder / "rows.csv").unlink()
    with pytest.raises(InputError, match=r"rows\.csv: missing, but listed in artifact\.json"):
        taught(rows, [Teacher(fifth.folder)])


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_students_learn_the_teachers_share(teacher, arena, pairs, tmp_path, share):
    student = train(
        load_config("prior", overrides=WHOLE),
        arena / "train.csv",
        tmp_path / "a",
        teachers=[Teacher(teacher.folder, share)],
    )
    expected = share * told_by(teacher).mean(axis=0) + (1 - share) * labels_of(pairs).mean(axis=0)
    np.testing.assert_allclose(student.predict_proba(pairs[:1])[0], expected, atol=1e-12)
    np.testing.assert_allclose(student.prior, labels_of(pairs).mean(axis=0))  # of the labels
    told = {"name": "folds", "share": share, "temperature": 1.0, "rows": 120}
    assert student.metrics["data"]["teachers"] == [told]


def test_what_is_held_out_is_judged_by_its_labels(teacher, arena, pairs, tmp_path):
    student = train(
        load_config("prior"),
        arena / "train.csv",
        tmp_path / "a",
        folds=2,
        teachers=[Teacher(teacher.folder)],
    )
    losses = -(labels_of(pairs) * np.log(told_by(student))).sum(axis=1)
    assert student.metrics["log_loss"] == pytest.approx(losses.mean())
    assert student.facts["data_sha256"] == teacher.facts["data_sha256"]


def test_a_teacher_that_knows_the_rows_that_are_judged_by_is_warned_of(
    teacher, arena, pairs, caplog
):
    rows = read_training_rows(arena / "train.csv")
    taught(rows, [Teacher(teacher.folder)])
    assert "which flatters the metrics" in caplog.text
    caplog.clear()
    other = pairs.assign(
        id=[f"new {i}" for i in range(len(pairs))],
        prompt=[(f"new {i}",) for i in range(len(pairs))],
    )
    taught(dataclasses.replace(rows, pairs=other), [Teacher(teacher.folder)])
    assert "flatter" not in caplog.text


@pytest.fixture(scope="module")
def one_sided(arena, tmp_path_factory):
    """A teacher with two fold models that do not mirror their probabilities when A and B change
    places."""
    options = ["model.scratch_hidden_size=16", "model.max_length=32", "training.learning_rate=0.02"]
    config = load_config("tiny", None, [*options, "training.swap_augmentation=false"])
    folder = tmp_path_factory.mktemp("one-sided")
    write_pairs(folder / "train.csv", read_pairs(arena / "train.csv", labels=True)[:40])
    return train(config, folder / "train.csv", folder / "a", folds=2)


def mirrored(model, pairs):
    """The mean of a model's probabilities over both orders of A and B."""
    first, second = model.predict_proba(pairs), model.predict_proba(swap_pairs(pairs))
    assert np.abs(first - second[:, [1, 0, 2]]).max() > 1e-3
    return (first + second[:, [1, 0, 2]]) / 2


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TORCH, reason="needs torch")
def test_soft_labels_are_averaged_over_both_orders(one_sided, arena, pairs):
    new = read_pairs(arena / "test.csv")[:8]
    np.testing.assert_allclose(
        soft_labels([one_sided], new), mirrored(one_sided, new), rtol=0, atol=1e-7
    )
    # Of the rows that it was trained on, the second order is that of the model that held them out.
    known = pairs[:40]
    told = soft_labels([one_sided], known)
    fold = one_sided.oof.set_index("id")["fold"].reindex(known["id"]).to_numpy()
    for number, model in enumerate(one_sided.models):
        own = known[fold == number].reset_index(drop=True)
        np.testing.assert_allclose(told[fold == number], mirrored(model, own), rtol=0, atol=1e-7)
    # Exchanging A and B of new rows therefore exchanges their labels.
    np.testing.assert_allclose(
        soft_labels([one_sided], swap_pairs(new)),
        soft_labels([one_sided], new)[:, [1, 0, 2]],
        rtol=0,
        atol=1e-7,
    )


@pytest.mark.skipif(not HAS_TORCH, reason="needs torch")
def test_an_order_that_no_model_can_read_is_named(one_sided, pairs, tmp_path, caplog):
    """As in a merged artifact, whose model has learned every row."""
    shutil.copytree(one_sided.folder, tmp_path / "a")
    for number in range(2):
        (tmp_path / "a" / f"fold-{number}" / "oof.csv").unlink()
    seal(tmp_path / "a", one_sided.facts)
    told = soft_labels([Artifact.load(tmp_path / "a")], pairs[:40])
    np.testing.assert_array_equal(told, told_by(one_sided))
    assert "using only one order of A and B for 40 out-of-fold predictions" in caplog.text


def test_a_row_is_judged_by_the_teachers_that_may(teacher, arena, pairs, tmp_path):
    """The first 60 rows were learned by `half`, which held none of them out: `teacher` has all of
    the share there, and two thirds of it elsewhere."""
    write_pairs(tmp_path / "half.csv", pairs[:60])
    whole = load_config("sparse", overrides=[*SMALL, *WHOLE])
    half = train(whole, tmp_path / "half.csv", tmp_path / "half")
    rows = read_training_rows(arena / "train.csv")
    both = taught(rows, [Teacher(teacher.folder, 0.6), Teacher(half.folder, 0.3)])
    new = pairs[60:].reset_index(drop=True)
    labels, told = labels_of(pairs), told_by(teacher)
    expected = 0.9 * told + 0.1 * labels
    expected[60:] = 0.6 * told[60:] + 0.3 * half.predict_proba(new) + 0.1 * labels[60:]
    np.testing.assert_allclose(both.targets, expected, atol=1e-12)
    assert np.abs(half.predict_proba(new) - told[60:]).max() > 0.02
    assert [(each["name"], each["rows"]) for each in both.facts["teachers"]] == [
        ("folds", 120),
        ("half", 60),
    ]
    np.testing.assert_allclose(
        soft_labels([teacher, half], pairs),
        np.concatenate([told[:60], (told[60:] + half.predict_proba(new)) / 2]),
        atol=1e-12,
    )
    # Where none may, the label is not repeated in silence.
    with pytest.raises(InputError, match=r"each of .*half, .*half: was trained on 60 of these"):
        taught(rows, [Teacher(half.folder, 0.3), Teacher(half.folder, 0.3)])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((None, None), (0.5, 0.5)),
        ((0.45, 0.45), (0.45, 0.45)),
        ((0.2, None), (0.2, 0.8)),
        ((1.0,), (1.0,)),
        ((0.7, 0.2, 0.1), (0.7, 0.2, 0.1)),  # whose sum is 0.9999999999999999
    ],
)
def test_the_labels_have_what_the_shares_leave(pairs, tmp_path, given, expected):
    rng = np.random.default_rng(0)
    told = rng.dirichlet(np.ones(3), size=(len(given), len(pairs)))
    for number, probabilities in enumerate(told):
        frame = pairs.assign(**dict(zip(LABEL_COLUMNS, probabilities.T, strict=True)))
        write_pairs(tmp_path / f"{number}.csv", frame)
    write_pairs(tmp_path / "rows.csv", pairs)
    teachers = [Teacher(tmp_path / f"{n}.csv", share) for n, share in enumerate(given)]
    targets = taught(read_training_rows(tmp_path / "rows.csv"), teachers).targets
    mixed = np.tensordot(expected, told, axes=1) + (1 - sum(expected)) * labels_of(pairs)
    np.testing.assert_allclose(targets, mixed, atol=1e-9)
    assert (targets >= 0).all()


def test_shares_that_leave_too_little_are_refused(pairs, tmp_path):
    write_pairs(tmp_path / "rows.csv", pairs)
    rows = read_training_rows(tmp_path / "rows.csv")
    for given, message in (
        ((0.6, 0.6), "sum to at most 1, got 1.2"),
        ((1.0, None), "sum to less than 1, since some teachers have no share, got 1"),
    ):
        with pytest.raises(InputError, match=message):
            taught(rows, [Teacher(tmp_path / "rows.csv", share) for share in given])


def test_a_temperature_softens_each_teacher(pairs, tmp_path):
    """At T = 2, (0.64, 0.32, 0.04) becomes its square roots, divided by their sum."""
    three = pairs[:3].reset_index(drop=True)
    told = np.array([[0.64, 0.32, 0.04], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])
    for name in ("a.csv", "b.csv"):
        frame = three.assign(**dict(zip(LABEL_COLUMNS, told.T, strict=True)))
        write_pairs(tmp_path / name, frame)
    write_pairs(tmp_path / "rows.csv", three)
    rows = read_training_rows(tmp_path / "rows.csv")
    roots = np.array([0.8, np.sqrt(0.32), 0.2])
    softened = np.array([roots / roots.sum(), [1, 0, 0], [1 / 3] * 3])
    one = taught(rows, [Teacher(tmp_path / "a.csv", 1.0, temperature=2.0)])
    np.testing.assert_allclose(one.targets, softened, atol=1e-9)
    two = taught(rows, [Teacher(tmp_path / "a.csv", 0.5, 2.0), Teacher(tmp_path / "b.csv", 0.5)])
    np.testing.assert_allclose(two.targets, (softened + told) / 2, atol=1e-9)
    # At low temperatures, no power is lost to rounding: the most probable class remains.
    cold = taught(rows, [Teacher(tmp_path / "a.csv", 1.0, 1e-4)]).targets
    np.testing.assert_allclose(cold, [[1, 0, 0], [1, 0, 0], [1 / 3] * 3], atol=1e-9)
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="expected a temperature above 0"):
            taught(rows, [Teacher(tmp_path / "a.csv", 1.0, temperature)])


def test_a_csv_is_joined_by_id(arena, pairs, tmp_path, teacher):
    path = tmp_path / "told.csv"
    teacher.oof.sample(frac=1, random_state=0).to_csv(path, index=False)
    rows = read_training_rows(arena / "train.csv")
    np.testing.assert_allclose(taught(rows, [Teacher(path)]).targets, told_by(teacher), atol=1e-12)
    teacher.oof[3:].to_csv(path, index=False)
    with pytest.raises(
        InputError,
        match=(
            f"no probabilities for 3 of 120 training rows, the first of them id '{pairs['id'][0]}'"
        ),
    ):
        taught(rows, [Teacher(path)])
    teacher.oof.drop(columns="winner_tie").to_csv(path, index=False)
    with pytest.raises(InputError, match=r"row 1 .*'winner_model_b': expected a sum of 1"):
        taught(rows, [Teacher(path)])
    teacher.oof.assign(winner_tie=0.9).to_csv(path, index=False)
    with pytest.raises(InputError, match="expected a sum of 1"):
        taught(rows, [Teacher(path)])
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="expected a share above 0 and at most 1"):
            taught(rows, [Teacher(path, share)])


def test_a_csv_of_other_rows_with_the_same_ids_is_refused(teacher, arena, pairs, tmp_path):
    rows = read_training_rows(arena / "train.csv")
    labelled = pairs.assign(**dict(zip(LABEL_COLUMNS, told_by(teacher).T, strict=True)))
    write_pairs(tmp_path / "told.csv", labelled)
    np.testing.assert_allclose(
        taught(rows, [Teacher(tmp_path / "told.csv")]).targets, told_by(teacher), atol=1e-12
    )
    write_pairs(tmp_path / "told.csv", labelled.assign(id=np.roll(labelled["id"], 1)))
    with pytest.raises(
        InputError,
        match=r"told\.csv: column 'prompt': different texts than in 120 of 120 training rows",
    ):
        taught(rows, [Teacher(tmp_path / "told.csv")])


def test_another_teacher_is_another_run(teacher, arena, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "humanpref.runs.results.share_equal_files",
        lambda models: (_ for _ in ()).throw(KeyboardInterrupt),
    )
    with pytest.raises(KeyboardInterrupt):
        train(
            load_config("prior"),
            arena / "train.csv",
            tmp_path / "a",
            teachers=[Teacher(teacher.folder)],
        )
    monkeypatch.undo()
    for other in ([], [Teacher(teacher.folder, 0.5)]):
        with pytest.raises(InputError, match="unfinished run with other settings or rows"):
            train(load_config("prior"), arena / "train.csv", tmp_path / "a", teachers=other)
    train(
        load_config("prior"),
        arena / "train.csv",
        tmp_path / "a",
        teachers=[Teacher(teacher.folder)],
    )


def test_soft_labels_written_are_read_and_learned(teacher, arena, pairs, tmp_path):
    new = read_pairs(arena / "test.csv")
    write_soft_labels(tmp_path / "soft.csv", [teacher], new, weight=0.5)
    again = read_pairs(tmp_path / "soft.csv", labels=True)
    assert again["weight"].tolist() == [0.5] * len(new)
    np.testing.assert_allclose(labels_of(again), teacher.predict_proba(new), atol=1e-12)
    pd.testing.assert_frame_equal(again[list(new)], new)
    student = train(load_config("prior", overrides=WHOLE), tmp_path / "soft.csv", tmp_path / "a")
    np.testing.assert_allclose(student.prior, teacher.predict_proba(new).mean(axis=0), atol=1e-12)
    with pytest.raises(InputError, match="--weight: expected a positive number, got 0"):
        write_soft_labels(tmp_path / "soft.csv", [teacher], new, weight=0)
