import pytest


def test_eda_says_what_it_wrote_and_left_out(run, arena):
    pytest.importorskip("matplotlib")
    code, out, _ = run("eda", arena / "test.csv", "--out", "page")
    assert code == 0
    first, *others = out.splitlines()
    assert first.startswith("page/index.html: 24 rows, ")
    assert others == [
        "left out: no labels in the file: balance, wins, strengths, length bias and ties",
        "left out: no tokenizer given (--tokenizer FOLDER): truncation",
    ]
