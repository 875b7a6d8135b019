"""`BatchJudge`: a frame in, a frame out, in whichever process."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest

import humanpref
from humanpref.config import load_config
from humanpref.interfaces.batch import BatchJudge
from humanpref.runs.train import train
from humanpref.schema import InputError

ADDED = ["p_a", "p_b", "p_tie", "margin"]


@pytest.fixture(scope="module")
def artifact(arena, tmp_path_factory):
    out = tmp_path_factory.mktemp("batch") / "artifact"
    return train(load_config("prior"), arena / "train.csv", out).folder


def test_columns_are_added_and_nothing_else_changes(pairs):
    frame = pairs[5:9].assign(more=list("wxyz"))
    before = frame.copy()
    judged = humanpref.BatchJudge()(frame)
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_frame_equal(judged[list(frame)], before)
    assert list(judged) == [*frame, *ADDED]
    expected = humanpref.load().judge_many(frame)
    np.testing.assert_array_equal(judged[ADDED[:3]], expected)
    np.testing.assert_allclose(judged["margin"], np.log(expected[:, 0] / expected[:, 1]))


def test_arrays_are_turns_as_pyarrow_gives_them():
    row = {"prompt": ["Why?", "Why?"], "response_a": ["a", "So."], "response_b": ["No.", "b"]}
    frames = [pd.DataFrame([{k: kind(v) for k, v in row.items()}]) for kind in (list, np.array)]
    first, second = (BatchJudge()(frame)[ADDED] for frame in frames)
    pd.testing.assert_frame_equal(first, second)


def test_only_the_path_is_pickled(artifact, pairs):
    judge = BatchJudge(artifact)
    unused = pickle.dumps(judge)
    expected = judge(pairs)
    assert pickle.dumps(judge) == unused
    pd.testing.assert_frame_equal(pickle.loads(unused)(pairs), expected)


def test_another_process_gets_the_same(pairs):
    judge, parts = BatchJudge(), [pairs[:3], pairs[3:6]]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as workers:
        made = list(workers.map(judge, parts))
    pd.testing.assert_frame_equal(pd.concat(made), judge(pairs[:6]))


def test_the_format_is_pickled_too():
    frame = pd.DataFrame([{"prompt": '["a"]', "response_a": "So.", "response_b": "No."}])
    judge = BatchJudge(format="plain")
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(judge))(frame), judge(frame))


def test_an_empty_frame_keeps_its_columns():
    empty = pd.DataFrame({"prompt": [], "response_a": [], "response_b": [], "more": []})
    judged = BatchJudge()(empty)
    assert list(judged) == [*empty, *ADDED]
    assert len(judged) == 0


def test_a_taken_or_missing_column_is_refused(pairs):
    with pytest.raises(InputError, match="column 'p_tie' already exists"):
        BatchJudge()(pairs.assign(p_tie=1))
    with pytest.raises(InputError, match="missing column 'response_b'"):
        BatchJudge()(pairs.drop(columns="response_b"))
