import pandas as pd
import pytest

from humanpref.reports.table_text import columns, markdown


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "log_loss": [0.5, None, 1234.5, -100.25, 99.98765],
            "rows": [1.0, 0.0, 30_000.0, None, 5],
            "exact": [True, False, True, True, True],
            "name": ["a", "b", None, "d_e", 3],
        }
    )


def test_cells_as_a_page_shows_them(table):
    assert columns(table) == [
        ("log_loss", True, ["0.500", "–", "1,234", "-100", "99.988"]),
        ("rows", True, ["1", "0", "30,000", "–", "5"]),
        ("exact", True, ["True", "False", "True", "True", "True"]),
        ("name", False, ["a", "b", "–", "d_e", "3"]),
    ]


def test_markdown(table):
    assert markdown(table[["name", "log_loss"]].tail(3)) == (
        "| name | log_loss |\n| --- | --- |\n| – | 1,234 |\n| d_e | -100 |\n| 3 | 99.9877 |\n"
    )
    assert markdown(table[["rows"]].head(0)) == "| rows |\n| --- |\n"
    broken = pd.DataFrame({"a|b": ["c | d\ne"]})
    assert markdown(broken) == "| a\\|b |\n| --- |\n| c \\| d e |\n"
