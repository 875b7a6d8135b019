import json

import pytest

from .refusals import refused


def test_eda_says_what_it_wrote_and_left_out(run, arena):
    pytest.importorskip("matplotlib")
    code, out, _ = run("eda", arena / "test.csv", "--out", "page")
    assert code == 0
    first, *others = out.splitlines()
    assert first.startswith("page/index.html: 24 rows, ")
    assert others == [
        "left out: balance, wins, strengths, length bias and ties (the file has no labels)",
        "left out: truncation (no tokenizer given: --tokenizer FOLDER)",
    ]


def test_the_test_file_can_have_its_own_format(run, arena, tmp_path):
    pytest.importorskip("matplotlib")
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "response_a": "c", "response_b": "d"}
    (tmp_path / "both.jsonl").write_text(json.dumps(row))
    page = ["--quiet", "eda", arena / "test.csv", "--out", "page", "--test"]
    refused(run(*page, "both.jsonl"), "both.jsonl: has the columns of several formats")
    assert run(*page, "plain:both.jsonl")[0] == 0
    sizes = (tmp_path / "page" / "tables" / "test_sizes.csv").read_text()
    assert "\nrows,24,1\n" in sizes
