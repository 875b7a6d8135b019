"""Soft labels: a teacher's probabilities alone or mixed with the labels, and no label of a row
repeated to a student."""

import dataclasses
import logging

import numpy as np
import pandas as pd
import pytest

from humanpref.config import load_config
from humanpref.data import Extra, labels_of, read_pairs, read_training_rows, swap_pairs, write_pairs
from humanpref.runs.distillation import Teacher, soft_labels, taught, write_soft_labels
from humanpref.runs.train import train
from humanpref.schema import LABEL_COLUMNS, InputError

SPARSE = load_config("sparse", overrides=["model.term_penalties=3", "model.structure_penalties=10"])
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
    np.testing.assert_array_equal(soft_labels([artifact], pairs[:60]), told_by(artifact))


def test_a_raw_frame_is_known_as_the_file_is(teacher, arena):
    np.testing.assert_array_equal(
        soft_labels([teacher], pd.read_csv(arena / "train.csv")), told_by(teacher)
    )


def test_rows_under_other_ids_are_warned_of(teacher, pairs, caplog):
    renamed = pairs[:5].assign(id=[f"new-{i}" for i in range(5)])
    soft_labels([teacher], renamed)
    assert "5 rows share a prompt with its training rows" in caplog.text
    # The same id with another text is another row.
    caplog.clear()
    with caplog.at_level(logging.INFO):
        soft_labels([teacher], pairs[:1].assign(prompt=[("quite another prompt",)]))
    assert "share a prompt" not in caplog.text
    assert "out-of-fold" not in caplog.text


def test_a_teacher_without_out_of_fold_predictions_is_refused(arena, tmp_path):
    rows = read_training_rows(arena / "train.csv")
    whole = train(load_config("prior", overrides=WHOLE), arena / "train.csv", tmp_path / "whole")
    with pytest.raises(InputError, match=r"no oof\.csv in it: nothing was held out"):
        taught(rows, Teacher(whole.folder))
    fifth = train(load_config("prior"), arena / "train.csv", tmp_path / "fifth")
    with pytest.raises(
        InputError, match=r"was trained on 9\d of these rows .* train it with --folds"
    ):
        taught(rows, Teacher(fifth.folder))
    (fifth.folder / "rows.csv").unlink()
    with pytest.raises(InputError, match=r"rows\.csv: cannot be read"):
        taught(rows, Teacher(fifth.folder))


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_students_learn_the_teachers_share(teacher, arena, pairs, tmp_path, share):
    student = train(
        load_config("prior", overrides=WHOLE),
        arena / "train.csv",
        tmp_path / "a",
        teacher=Teacher(teacher.folder, share),
    )
    expected = share * told_by(teacher).mean(axis=0) + (1 - share) * labels_of(pairs).mean(axis=0)
    np.testing.assert_allclose(student.predict_proba(pairs[:1])[0], expected, atol=1e-12)
    np.testing.assert_allclose(student.prior, labels_of(pairs).mean(axis=0))  # of the labels
    assert student.metrics["data"]["teacher"] == {"name": "folds", "share": share}


def test_what_is_held_out_is_judged_by_its_labels(teacher, arena, pairs, tmp_path):
    student = train(
        load_config("prior"),
        arena / "train.csv",
        tmp_path / "a",
        folds=2,
        teacher=Teacher(teacher.folder),
    )
    losses = -(labels_of(pairs) * np.log(told_by(student))).sum(axis=1)
    assert student.metrics["log_loss"] == pytest.approx(losses.mean())
    assert student.facts["data_sha256"] == teacher.facts["data_sha256"]


def test_a_teacher_that_knows_the_rows_that_are_judged_by_is_warned_of(
    teacher, arena, pairs, caplog
):
    rows = read_training_rows(arena / "train.csv")
    taught(rows, Teacher(teacher.folder))
    assert "which flatters the metrics" in caplog.text
    caplog.clear()
    other = pairs.assign(
        id=[f"new {i}" for i in range(len(pairs))],
        prompt=[(f"new {i}",) for i in range(len(pairs))],
    )
    taught(dataclasses.replace(rows, pairs=other), Teacher(teacher.folder))
    assert "flatter" not in caplog.text


def test_a_csv_is_joined_by_id(arena, pairs, tmp_path, teacher):
    path = tmp_path / "told.csv"
    teacher.oof.sample(frac=1, random_state=0).to_csv(path, index=False)
    rows = read_training_rows(arena / "train.csv")
    np.testing.assert_allclose(taught(rows, Teacher(path)).targets, told_by(teacher), atol=1e-12)
    teacher.oof[3:].to_csv(path, index=False)
    with pytest.raises(
        InputError,
        match=(
            f"no probabilities for 3 of 120 training rows, the first of them id '{pairs['id'][0]}'"
        ),
    ):
        taught(rows, Teacher(path))
    teacher.oof.drop(columns="winner_tie").to_csv(path, index=False)
    with pytest.raises(InputError, match="missing column 'winner_tie'"):
        taught(rows, Teacher(path))
    teacher.oof.assign(winner_tie=0.9).to_csv(path, index=False)
    with pytest.raises(InputError, match="expected a sum of 1"):
        taught(rows, Teacher(path))
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="expected a share above 0 and at most 1"):
            taught(rows, Teacher(path, share))


def test_a_csv_of_other_rows_with_the_same_ids_is_refused(teacher, arena, pairs, tmp_path):
    rows = read_training_rows(arena / "train.csv")
    labelled = pairs.assign(**dict(zip(LABEL_COLUMNS, told_by(teacher).T, strict=True)))
    write_pairs(tmp_path / "told.csv", labelled)
    np.testing.assert_allclose(
        taught(rows, Teacher(tmp_path / "told.csv")).targets, told_by(teacher), atol=1e-12
    )
    write_pairs(tmp_path / "told.csv", labelled.assign(id=np.roll(labelled["id"], 1)))
    with pytest.raises(
        InputError,
        match=r"told\.csv: column 'prompt': different texts than in 120 of 120 training rows",
    ):
        taught(rows, Teacher(tmp_path / "told.csv"))


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
            teacher=Teacher(teacher.folder),
        )
    monkeypatch.undo()
    for other in (None, Teacher(teacher.folder, 0.5)):
        with pytest.raises(InputError, match="unfinished run with other settings or rows"):
            train(load_config("prior"), arena / "train.csv", tmp_path / "a", teacher=other)
    train(
        load_config("prior"), arena / "train.csv", tmp_path / "a", teacher=Teacher(teacher.folder)
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
