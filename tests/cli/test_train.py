from pathlib import Path

import pytest

from humanpref.cli.train import file_and_number


@pytest.mark.parametrize(
    ("text", "file", "number"),
    [
        ("rows.csv", "rows.csv", 1.0),
        ("rows.csv=0.5", "rows.csv", 0.5),
        ("a=b.csv", "a=b.csv", 1.0),
        ("a=b.csv=2", "a=b.csv", 2.0),
        ("=2", "=2", 1.0),
        ("seed=1", "seed=1", 1.0),
    ],
)
def test_a_file_with_a_number(tmp_path, monkeypatch, text, file, number):
    monkeypatch.chdir(tmp_path)
    Path("seed=1").touch()
    assert file_and_number(text) == (Path(file), number)
