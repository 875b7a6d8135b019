"""`humanpref.load`: any model judges one pair or many, from several threads at once."""

import dataclasses
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import humanpref
from humanpref.config import load_config
from humanpref.data import as_pairs, labels_of, read_pairs
from humanpref.interfaces.judge import Judge
from humanpref.models import build_model
from humanpref.runs.artifact import Artifact
from humanpref.runs.train import train
from humanpref.schema import TEXT_COLUMNS, InputError

from ..shapes import SHAPES, make
from ..shapes import pairs as own_pairs


@pytest.fixture(scope="module")
def artifact(arena, tmp_path_factory):
    settings = ("model.term_penalties=30", "model.structure_penalties=100")
    out = tmp_path_factory.mktemp("judge") / "artifact"
    return train(load_config("sparse", None, settings), arena / "train.csv", out, folds=2)


@pytest.fixture(scope="module")
def encoder(small_preset):
    pytest.importorskip("torch")
    config, rows = small_preset("tiny", "model.max_length=48", "training.epochs=1")
    return build_model(config).fit(rows, labels_of(rows))


def texts_of(pairs):
    return list(zip(*(pairs[column].map(list) for column in TEXT_COLUMNS), strict=True))


def probabilities(judgement):
    return [judgement.p_a, judgement.p_b, judgement.p_tie]


@pytest.mark.parametrize("which", ["packaged", "artifact"])
def test_one_by_one_or_all_together(which, artifact, pairs):
    judge = humanpref.load(None if which == "packaged" else artifact.folder)
    some = pairs[:12]
    one_by_one = [probabilities(judge.judge(*texts)) for texts in texts_of(some)]
    np.testing.assert_allclose(judge.judge_many(some), one_by_one, rtol=0, atol=1e-12)
    rows = [dict(zip(TEXT_COLUMNS, texts, strict=True)) for texts in texts_of(some)]
    np.testing.assert_array_equal(judge.judge_many(iter(rows)), judge.judge_many(some))


def test_an_artifact_judges_as_it_predicts(artifact, pairs):
    some = pairs[:12]
    expected = Artifact.load(artifact.folder).predict_proba(some)
    judged = humanpref.load(str(artifact.folder)).judge_many(some)
    np.testing.assert_allclose(judged, expected, rtol=0, atol=1e-12)
    for given in (artifact, artifact.folder):
        assert humanpref.load(given).swap_equivariant
    np.testing.assert_array_equal(humanpref.load(artifact).judge_many(some), judged)


def test_the_shares_add_up_to_the_scores_and_the_scores_to_the_probabilities(pairs):
    for texts in texts_of(pairs[:12]):
        own = humanpref.load().judge(*texts)
        assert math.fsum(own.margin_shares.values()) == own.margin
        assert math.fsum(own.tie_shares.values()) == own.tie_score
        assert len(own.margin_shares) == 22
        assert own.margin == pytest.approx(math.log(own.p_a / own.p_b), abs=1e-12)
        mean = (math.log(own.p_a) + math.log(own.p_b)) / 2
        assert own.tie_score == pytest.approx(math.log(own.p_tie) - mean, abs=1e-12)


def test_exchanging_the_answers_is_exact(pairs):
    judge = humanpref.load()
    for prompt, a, b in texts_of(pairs[:12]):
        one, other = judge.judge(prompt, a, b), judge.judge(prompt, b, a)
        assert probabilities(other) == [one.p_b, one.p_a, one.p_tie]
        assert other.margin == -one.margin
        assert {"A": "B", "B": "A", "tie": "tie"}[one.winner] == other.winner


AWKWARD = ["", " ", "null", "[1]", '["a", "b"]', "x\ud83d", "plain \U0001f600"]


@pytest.mark.parametrize("first", AWKWARD)
def test_texts_mean_the_same_as_in_a_frame(first):
    # Plain texts take a way without pandas; it must read them as `as_pairs` does. A mixture, which
    # `as_pairs` refuses, is no list of turns: an answer may be a JSON list.
    judge = humanpref.load()
    for second in AWKWARD:
        for third in ('["a"]', ""):
            texts = first, second, third
            frame = pd.DataFrame([texts], columns=list(TEXT_COLUMNS), dtype=object)
            try:
                pairs = as_pairs(frame)
            except InputError:
                pairs = as_pairs(frame.map(lambda text: [text]))
            expected = judge.model.predict_proba(pairs)[0]
            assert probabilities(judge.judge(*texts)) == expected.tolist()


def test_columns_mean_the_same_as_rows():
    judge = humanpref.load()
    columns = {
        "prompt": ["x\ud83d", "Why?"],
        "response_a": ["So.", "é"],
        "response_b": ["", "\ud83d"],
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    np.testing.assert_array_equal(judge.judge_many(columns), judge.judge_many(rows))


def test_turns_on_their_own_or_as_json():
    judge = humanpref.load()
    turns = ["Why?", "And then?"], ["So.", "Then this."], ["No.", "Then that, and more of it."]
    own = judge.judge(*turns)
    assert judge.judge(*map(json.dumps, turns)) == own
    joined = judge.judge(*("\n\n".join(side) for side in turns))
    assert joined != own


def test_the_result_is_plain_and_frozen(artifact):
    for judge in (humanpref.load(), humanpref.load(artifact.folder)):
        own = judge.judge("Why?", "So.", "Because of the weather.")
        content = json.loads(json.dumps(own.to_dict()))
        assert content["winner"] == own.winner
        assert content["p_a"] + content["p_b"] + content["p_tie"] == pytest.approx(1)
        assert content["cut"] is False
        with pytest.raises(dataclasses.FrozenInstanceError):
            own.p_a = 1.0
    assert own.margin_shares == own.tie_shares == {}


def test_unusable_texts_are_refused_by_name(artifact):
    for judge in (humanpref.load(), humanpref.load(artifact.folder)):
        with pytest.raises(InputError, match="'response_a': expected a plain string, got int"):
            judge.judge("p", 3, "b")
        with pytest.raises(InputError, match="'response_a': expected a plain string, got list"):
            judge.judge("p", ["a"], "b")
        with pytest.raises(InputError, match="missing column 'response_b'"):
            judge.judge_many([{"prompt": "p", "response_a": "a"}])
        with pytest.raises(InputError, match="rename them response_a and response_b"):
            judge.judge_many([{"prompt": "p", "chosen": "a", "rejected": "b"}])
        assert judge.judge_many([]).shape == (0, 3)


def test_rows_in_other_forms_get_the_same_judgement():
    texts = {"prompt": "Why?", "response_a": "So.", "response_b": "Because:\n\n- one\n- two"}
    judge, asked = humanpref.load(), {"role": "user", "content": "Why?"}
    expected = judge.judge(*texts.values())
    conversations = {
        f"conversation_{side}": [asked, {"role": "assistant", "content": texts[f"response_{side}"]}]
        for side in "ab"
    }
    turns = {column: [text] for column, text in texts.items()}
    messages = [[asked], *(each[1:] for each in conversations.values())]
    assert judge.judge(*messages) == expected
    # Ids need not be unique: an engine passes a part of a table at a time.
    for rows in ([texts], [turns], [conversations], pd.DataFrame([{"id": 1, **texts}] * 2)):
        for own in judge.judge_many(rows).tolist():
            assert own == probabilities(expected)


def test_plain_texts_may_look_like_json_lists_if_the_format_is_named():
    judge, row = humanpref.load(), dict(zip(TEXT_COLUMNS, ('["a"]', "So.", "No."), strict=True))
    with pytest.raises(InputError, match="to take it as plain text, name the format"):
        judge.judge_many([row])
    turns = [{column: [text] for column, text in row.items()}]
    assert judge.judge_many([row], "plain").tolist() == judge.judge_many(turns).tolist()


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_of_rows_is_judged_or_refused(name, tmp_path):
    judge, shape, source = humanpref.load(), SHAPES[name], make(name, tmp_path)
    read = read_pairs(source)
    expected = judge.judge_many(read)
    assert expected.shape == (len(read), 3)
    # What a line of the file or of the table holds, as dicts.
    rows = source if not isinstance(source, Path) else [shape.row(p) for p in own_pairs(shape.ties)]
    if shape.drawn:
        with pytest.raises(InputError, match="rename them response_a and response_b"):
            judge.judge_many(rows)
    else:
        assert judge.judge_many(rows).tolist() == expected.tolist()
    if isinstance(source, Path):
        with pytest.raises(InputError, match="read it with read_pairs"):
            judge.judge_many(source)


def test_a_model_without_ties(pairs):
    two = pairs[labels_of(pairs)[:, 2] == 0].drop(columns="winner_tie")
    config = load_config("prior", overrides=["training.classes=2"])
    model = build_model(config).fit(two, labels_of(two))
    own = humanpref.load(model).judge("Why?", "So.", "No.")
    assert own.p_tie == 0
    assert own.winner in "AB"
    assert math.isfinite(own.tie_score)


def test_a_folder_that_is_no_artifact_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        humanpref.load(tmp_path / "nowhere")


def test_an_encoder_says_what_it_cut(encoder):
    judge = humanpref.load(encoder)
    assert not judge.judge("Why?", "So.", "No.").cut
    assert judge.judge("Why?", "So, and so on. " * 40, "No.").cut


def test_eight_threads_get_what_one_gets(encoder, pairs):
    """Without a lock, threads that tokenize at once raise "Already borrowed"."""
    judge, same = humanpref.load(encoder), Judge(encoder)
    rows = texts_of(pairs[:16])
    serial = [judge.judge(*texts) for texts in rows]
    with ThreadPoolExecutor(8) as threads:
        judges = [judge, same] * len(rows)
        assert list(threads.map(lambda j, t: j.judge(*t), judges, rows)) == serial
        parts = [pairs[start : start + 2] for start in range(0, 16, 2)]
        together = list(threads.map(judge.judge_many, parts))
    expected = [[own.p_a, own.p_b, own.p_tie] for own in serial]
    np.testing.assert_allclose(np.concatenate(together), expected, rtol=0, atol=1e-6)


def test_lists_mean_the_same_as_in_a_frame():
    judge = humanpref.load()
    for turns in ([], [""], ["x\ud83d"], [None, "b"], ("a", "b")):
        frame = pd.DataFrame([[turns, ["So."], ["No."]]], columns=list(TEXT_COLUMNS))
        expected = judge.model.predict_proba(as_pairs(frame))[0].tolist()
        assert probabilities(judge.judge(turns, ["So."], ["No."])) == expected


def test_a_dict_without_a_key_that_others_have_is_not_an_empty_text():
    whole = {"prompt": "Why?", "response_a": "So.", "response_b": "No."}
    with pytest.raises(InputError, match="row 2: column 'response_b': missing"):
        humanpref.load().judge_many([whole, {"prompt": "Why?", "response_a": "So."}])
