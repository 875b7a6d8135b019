"""`humanpref score`: what is added to which line, what is carried through, and which lines are
refused."""

import json

import numpy as np
import pandas as pd
import pytest

from humanpref.cli.main import main
from humanpref.config import load_config
from humanpref.data import read_pairs
from humanpref.interfaces import score as scoring
from humanpref.interfaces.score import score
from humanpref.runs.artifact import Artifact
from humanpref.runs.train import train
from humanpref.schema import InputError


@pytest.fixture(scope="module")
def artifact(arena, tmp_path_factory):
    options = load_config(
        "sparse", None, ("model.term_penalties=30", "model.structure_penalties=100")
    )
    return train(
        options, arena / "train.csv", tmp_path_factory.mktemp("scoring") / "artifact", folds=2
    )


@pytest.fixture
def lines(tmp_path):
    """Write objects as JSON lines; give their file."""

    def write(*objects):
        path = tmp_path / "in.jsonl"
        path.write_text(
            "".join((o if isinstance(o, str) else json.dumps(o)) + "\n" for o in objects), "utf-8"
        )
        return path

    return write


def scored(artifact, path):
    out = path.with_name("out.jsonl")
    score(artifact, path, out)
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def pair(prompt="What?", response_a="This.", response_b="That, and more.", **extra):
    return {"prompt": prompt, "response_a": response_a, "response_b": response_b, **extra}


def test_pairs_get_the_probabilities_and_the_log_odds(artifact, pairs, lines, monkeypatch):
    monkeypatch.setattr(scoring, "BATCH_LINES", 7)
    objects = [
        pair(*(list(row[c]) for c in ("prompt", "response_a", "response_b")), n=i)
        for i, row in pairs[:20].iterrows()
    ]
    made = scored(artifact, lines(*objects))
    expected = artifact.predict_proba(pairs[:20])
    np.testing.assert_allclose(
        [[o["p_a"], o["p_b"], o["p_tie"]] for o in made], expected, atol=1e-12
    )
    np.testing.assert_allclose(
        [o["margin"] for o in made], np.log(expected[:, 0] / expected[:, 1]), atol=1e-12
    )
    assert [{k: o[k] for k in objects[0]} for o in made] == objects


def test_a_text_is_one_turn_and_swapping_negates_the_margin(artifact, lines):
    one, swapped = scored(artifact, lines(pair(), pair("What?", "That, and more.", "This.")))
    (turns,) = scored(artifact, lines(pair(["What?"], ["This."], ["That, and more."])))
    assert one["margin"] == turns["margin"] == -swapped["margin"] != 0


def test_lines_of_the_competitions_file_read_as_the_file(artifact, arena, lines, monkeypatch):
    monkeypatch.setattr(scoring, "BATCH_LINES", 5)
    made = scored(artifact, lines(*pd.read_csv(arena / "test.csv").to_dict("records")))
    expected = artifact.predict_proba(read_pairs(arena / "test.csv"))
    probabilities = [[line["p_a"], line["p_b"], line["p_tie"]] for line in made]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-12)


def test_texts_are_read_by_what_the_whole_file_holds(artifact, lines, monkeypatch):
    monkeypatch.setattr(scoring, "BATCH_LINES", 1)
    # By themselves the first two lines might be JSON; the last one says that they are not.
    empty, null, _ = scored(artifact, lines(pair("", "", ""), pair("p", "null", "a b c d"), pair()))
    assert empty["margin"] == pytest.approx(0)
    (text,) = scored(artifact, lines(pair(["p"], ["null"], ["a b c d"])))
    assert (
        null["margin"]
        == text["margin"]
        != scored(artifact, lines(pair(["p"], None, ["a b c d"])))[0]["margin"]
    )


def test_what_else_a_line_holds_is_carried_through(artifact, lines):
    extra = {
        "id": 7,
        "meta": {"tags": ["ü", None, "\ud800"], "x": 1.5},
        "prompt_id": "p",
        "big": 10**30,
    }
    first, second = scored(
        artifact,
        lines(pair(["p"], ["a"], ["b"], **extra), "", "  ", pair(["a", None], [], ["\ud800"])),
    )
    assert {key: first[key] for key in extra} == extra
    assert second["prompt"] == ["a", None]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "not valid JSON"),
        ('{"prompt": NaN}', "not valid JSON (the number NaN is not finite)"),
        ('{"prompt": 1e999}', "not valid JSON (the number 1e999 is not finite)"),
        ('{"prompt": "p", "prompt": "q"}', "not valid JSON (key 'prompt' appears twice)"),
        ("[1]", "expected a JSON object, got '[1]'"),
        (
            {"prompt": "p", "response_a": "a"},
            "key 'response_b': is missing; the line has 'prompt', 'response_a'",
        ),
        ({"response": "a"}, "key 'prompt': is missing"),
        (pair(3), "key 'prompt': expected a plain string, got int '3'"),
        (pair(["p"]), "key 'prompt': expected a plain string as in line 1, key 'prompt', got"),
        (
            pair(response_b='["b"]'),
            "key 'response_b': expected a plain string as in line 1, key 'prompt', got",
        ),
        (
            pair(response_a=["a", 1]),
            "key 'response_a': expected a plain string as in line 1, key 'prompt', got list",
        ),
        (pair(response="r"), "key 'response': appears along with 'response_a'"),
        (pair(margin=1), "key 'margin': already exists"),
        ({"prompt": "p", "response": "r", "reward": 0}, "key 'reward': already exists"),
        (
            {"prompt": "p", "response": "r"},
            "key 'response': family sparse cannot score a single response",
        ),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(line, told, artifact, lines, capsys):
    path = lines(pair(), line, pair())
    assert (
        main(
            [
                "--quiet",
                "score",
                str(artifact.folder),
                "--in",
                str(path),
                "--out",
                str(path.parent / "o"),
            ]
        )
        == 2
    )
    assert f"humanpref: {path}: line 2: {told}" in capsys.readouterr().err
    assert not list(path.parent.glob("*o*o*"))
    assert {entry.name for entry in path.parent.iterdir()} == {"in.jsonl"}


def test_files_that_will_not_do(artifact, lines, tmp_path, capsys):
    path = lines(pair())

    def told(source, out):
        assert (
            main(["--quiet", "score", str(artifact.folder), "--in", str(source), "--out", str(out)])
            == 2
        )
        return capsys.readouterr().err

    assert "not a file" in told(tmp_path / "none", tmp_path / "o")
    assert "is also the input" in told(path, path)
    (tmp_path / "empty").touch()
    assert "contains no lines" in told(tmp_path / "empty", tmp_path / "o")
    (tmp_path / "binary").write_bytes(b"{\xff\xfe")
    assert "that is not UTF-8 text" in told(tmp_path / "binary", tmp_path / "o")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("format", [None, "plain"])
def test_a_file_in_any_format_gets_what_its_rows_get(artifact, tmp_path, format):
    rows = [pair(f"p {n}", "So. " * n, id=n) for n in range(3)]
    expected = artifact.predict_proba(read_pairs(rows))
    pd.DataFrame(rows).to_csv(tmp_path / "in.csv", index=False)
    (tmp_path / "in.json").write_text(json.dumps(rows))
    for name in ("in.csv", "in.json"):
        assert score(artifact, tmp_path / name, tmp_path / "out.jsonl", format) == 3
        made = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [int(line["id"]) for line in made] == [0, 1, 2]
        probabilities = [[line["p_a"], line["p_b"], line["p_tie"]] for line in made]
        np.testing.assert_allclose(probabilities, expected, rtol=1e-12)
    pytest.importorskip("pyarrow")
    pd.DataFrame(rows).to_parquet(tmp_path / "in.parquet")
    with pytest.raises(InputError, match=r"out.jsonl: expected a name that ends in"):
        score(artifact, tmp_path / "in.parquet", tmp_path / "out.jsonl", format)
    with pytest.raises(
        InputError, match=r"o.parquet: expected a name that does not end in .parquet"
    ):
        score(artifact, tmp_path / "in.csv", tmp_path / "o.parquet", format)
    score(artifact, tmp_path / "in.parquet", tmp_path / "out.parquet", format)
    made = pd.read_parquet(tmp_path / "out.parquet")
    np.testing.assert_allclose(made[["p_a", "p_b", "p_tie"]], expected, rtol=1e-12)
    assert made["id"].tolist() == [0, 1, 2]
    names = {"in.csv", "in.json", "in.parquet", "out.jsonl", "out.parquet"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_named_format_takes_lines_as_they_are(artifact, lines):
    path = lines(pair(), pair(response_b='["b"]'))
    out = path.with_name("out.jsonl")
    with pytest.raises(InputError, match="expected a plain string as in line 1"):
        score(artifact, path, out)
    assert score(artifact, path, out, "plain") == 2
    made = [json.loads(line) for line in out.read_text().splitlines()]
    turns = {column: [text] for column, text in pair(response_b='["b"]').items()}
    expected = artifact.predict_proba(read_pairs([turns]))
    assert [made[1][key] for key in ("p_a", "p_b", "p_tie")] == pytest.approx(expected[0])
    assert made[1]["response_b"] == '["b"]'


@pytest.mark.slow
def test_single_responses_get_the_implicit_reward(decoder_folder, pairs, arena, lines, tmp_path):
    pytest.importorskip("peft")
    options = (
        "model.max_length=80",
        "training.learning_rate=3e-3",
        "training.batch_size=16",
        "training.link_fraction=0",
    )
    config = load_config("llama-3.2-1b-dpo", None, (f"model.backbone={decoder_folder()}", *options))
    dpo = train(config, arena / "train.csv", tmp_path / "dpo")
    some = pairs[:6]
    objects = []
    for _, row in some.iterrows():
        texts = {column: list(row[column]) for column in ("prompt", "response_a", "response_b")}
        objects += [texts] + [
            {"prompt": texts["prompt"], "response": texts[s]} for s in ("response_a", "response_b")
        ]
    made = scored(Artifact.load(dpo.folder), lines(*objects))
    rewards = np.array([o["reward"] for o in made if "reward" in o]).reshape(6, 2)
    assert len({*rewards.ravel()}) > 6
    np.testing.assert_allclose(
        rewards[:, 0] - rewards[:, 1], dpo.models[0].margins(some), atol=1e-5
    )
    assert [set(o) & {"reward", "margin"} for o in made] == [{"margin"}, {"reward"}, {"reward"}] * 6
