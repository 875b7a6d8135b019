"""Every shape of pairs through the command line: `convert`, `train` and `predict`."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from humanpref.data import read_pairs

from ..shapes import FILES, SHAPES, check, make
from .refusals import refused

SAME_ROWS = ("UTF-16", "gzip", "bzip2", "xz", "zip", "a language, and ties")
"""Shapes that differ from others by their bytes alone, or by one column that is not read."""


@pytest.mark.parametrize("name", FILES)
def test_a_shape_is_converted_and_nothing_changes(run, tmp_path, name):
    source, shape = make(name, tmp_path), SHAPES[name]
    flags = ["--lossy"] if shape.format in ("wsdm", "conversations") or "language" in name else []
    for out in ("out.csv", "out.jsonl"):
        code, told, err = run("convert", source, out, *flags)
        assert (code, told.splitlines()[0]) == (
            0,
            f"{out}: {12 if shape.ties else 8} rows, read as {shape.format}",
        ), err
        check(read_pairs(out), name)
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["prompt"] for line in lines]
    assert texts == [json.loads(cell) for cell in pd.read_csv("out.csv")["prompt"]]
    again = read_pairs("out.jsonl")
    assert run("convert", "out.jsonl", "again.csv")[0] == 0
    pd.testing.assert_frame_equal(read_pairs("again.csv"), again)


@pytest.mark.parametrize("name", [name for name in FILES if name not in SAME_ROWS])
def test_a_shape_is_trained_on_and_predicted(run, tmp_path, name):
    source, shape = make(name, tmp_path), SHAPES[name]
    train = ["train", "--preset", "prior", "--set", "training.validation_fraction=0"]
    code, _, err = run("--quiet", *train, "--train", source, "--out", "artifact")
    assert code == 0, err
    predict = ["--quiet", "predict", "artifact", "--out", "s.csv", "--test"]
    if shape.drawn:
        refused(run(*predict, source), f"{source}: ", "rename them response_a and response_b")
        assert run("convert", source, "rows.csv")[0] == 0
        source = "rows.csv"
    code, _, err = run(*predict, source)
    assert code == 0, err
    submission = pd.read_csv("s.csv", dtype={"id": str}).set_index("id")
    assert submission.index.tolist() == read_pairs(source)["id"].tolist()
    ties = submission["winner_tie"].unique()
    assert (ties > 0.3).all() if shape.ties else (ties == 0).all()


def test_what_the_schema_cannot_hold_is_refused_unless_it_is_allowed(run, tmp_path):
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "score": 1},
        {"prompt": "p", "chosen": "a", "rejected": "a", "score": 2},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    refused(
        run("convert", "rows.jsonl", "out.csv"),
        "rows.jsonl: would lose the column 'score'; rows whose chosen equals rejected (1)",
        "--lossy",
    )
    assert not (tmp_path / "out.csv").exists()
    code, out, _ = run("convert", "rows.jsonl", "out.csv", "--lossy")
    assert (code, out.splitlines()) == (
        0,
        [
            "out.csv: 1 row, read as chosen-rejected",
            "lost: the column 'score'; rows whose chosen equals rejected (1)",
        ],
    )


def test_other_losses(run, tmp_path):
    system = {"role": "system", "content": "Be brief."}
    ask = {"role": "user", "content": "p"}
    rows = [
        {f"conversation_{side}": [system, ask, {"role": "assistant", "content": side}]
         for side in "ab"} | {"winner": "both_bad"}
    ]  # fmt: skip
    (tmp_path / "rows").write_text(json.dumps(rows))
    refused(run("convert", "rows", "o.csv"), "system messages (1); ties in which both are bad (1)")


def test_a_format_by_name_and_names_of_the_output(run, tmp_path):
    (tmp_path / "rows.csv").write_text('id,prompt,response_a,response_b\n1,p,a,"[""b""]"\n')
    refused(
        run("convert", "rows.csv", "out.csv"), "row 1 (id '1'): column 'response_b'", "--format"
    )
    assert run("convert", "rows.csv", "out.csv", "--format", "plain")[0] == 0
    assert read_pairs("out.csv")["response_b"].tolist() == [('["b"]',)]
    refused(run("convert", "rows.csv", "out.txt"), "expected a name that ends in .csv or .jsonl")
    refused(run("convert", "rows.csv", "rows.csv"), "is also the input")
    assert run("convert", "rows.csv", "out.csv", "--format", "odd")[0] == 2


def test_bad_rows_are_left_out_only_if_they_are_listed(run, tmp_path):
    good = ["1", '["p"]', '["a"]', '["b"]', "1", "0", "0"]
    cells = [good, ["1", *good[1:]], ["2", "p", *good[2:]], ["3", *good[1:4], "1", "1", "0"]]
    cells += [["4", *good[1:6]], ["5", good[1], "[null]", *good[3:]]]
    with open("rows.csv", "w", newline="") as file:
        names = ["id", "prompt", "response_a", "response_b"]
        names += ["winner_model_a", "winner_model_b", "winner_tie"]
        csv.writer(file).writerows([names, *cells])
    refused(run("convert", "rows.csv", "out.csv"), "rows.csv: row 2 (id '1'): duplicate id")
    code, out, _ = run("convert", "rows.csv", "out.csv", "--drop-bad-rows", "bad.csv")
    assert (code, out.splitlines()) == (
        0,
        ["bad.csv: 4 rows left out", "out.csv: 2 rows, read as competition"],
    )
    assert read_pairs("out.csv")["id"].tolist() == ["1", "5"]
    bad = pd.read_csv("bad.csv", dtype=str, keep_default_na=False)
    assert bad[["row", "id", "kind"]].to_numpy().tolist() == [
        *(["2", "1", "id"], ["3", "2", "text"], ["4", "3", "label"], ["5", "", "fields"])
    ]
    assert bad["fault"][0] == "duplicate id, first seen in row 1"
    assert "expected a sum of 1, got 2" in bad["fault"][2]
    assert run("convert", "out.csv", "again.csv", "--drop-bad-rows", "bad.csv")[0] == 0
    assert (tmp_path / "bad.csv").read_text() == "row,id,kind,fault\n"
    refused(
        run("convert", "rows.csv", "o.csv", "--drop-bad-rows", "o.csv"), "a file other than OUT"
    )
    refused(run("convert", "rows.csv", "o.csv", "--drop-bad-rows", "rows.csv"), "is also the input")


def test_a_model_of_chosen_and_rejected_answers_has_no_ties_and_swaps_exactly(
    run, tmp_path, caplog
):
    rng = np.random.default_rng(3)
    words = np.array(["red", "green", "blue", "yes", "no", "maybe"])
    rows = []
    for number in range(60):
        short, long = (" ".join(rng.choice(words, size)) for size in rng.integers([3, 9], [6, 20]))
        rows.append({"prompt": f"Q {number}", "chosen": long, "rejected": short})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = ["--set", "model.max_terms=0", "model.min_rows=1"]
    train = ["train", "--preset", "sparse", *settings, "--train", "rows.jsonl"]
    with caplog.at_level("INFO"):
        assert run(*train, "--out", "artifact")[0] == 0
    assert "no ties, hence two classes" in caplog.text
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    told = []
    for name, each in (("as.jsonl", rows), ("turned.jsonl", turned)):
        (tmp_path / name).write_text("\n".join(map(json.dumps, each)))
        assert run("convert", name, "pairs.csv")[0] == 0
        assert run("predict", "artifact", "--test", "pairs.csv", "--out", "s.csv")[0] == 0
        told.append(pd.read_csv("s.csv"))
    pd.testing.assert_frame_equal(*told)  # the draw does not see which one was chosen
    pairs = read_pairs("rows.jsonl")
    columns = {"response_a": pairs["response_b"], "response_b": pairs["response_a"]}
    pairs.drop(columns=["winner_model_a", "winner_model_b"]).assign(**columns).to_json(
        "swapped.json", orient="records"
    )
    assert run("predict", "artifact", "--test", "swapped.json", "--out", "s.csv")[0] == 0
    swapped = pd.read_csv("s.csv")
    assert (told[0]["winner_tie"] == 0).all()
    assert (swapped["winner_tie"] == 0).all()
    np.testing.assert_array_equal(swapped["winner_model_a"], told[0]["winner_model_b"])
    np.testing.assert_array_equal(swapped["winner_model_b"], told[0]["winner_model_a"])
    right = (told[0]["winner_model_a"] > 0.5) == (pairs["winner_model_a"] == 1)
    assert right.mean() > 0.9
