import io

import pytest

from humanpref.data.csv_rows import csv_errors, csv_rows, decoded, delimited_rows
from humanpref.schema import InputError


def test_rows_of_a_csv_with_commas(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b'\xef\xbb\xbfa;b,c\r\n\r\n"1\r\n""2",3\r\n')
    assert list(csv_rows(path)) == [["a;b", "c"], ['1\r\n"2', "3"]]
    with pytest.raises(InputError, match=r"none.csv: cannot be read"):
        next(csv_rows(tmp_path / "none.csv"))


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [("a,b;c,d\n", ","), ("a;b;c\n", ";"), ('"a;b;c",d\n', ","), ("a\tb,c\td\n", "\t"), ("a", ",")],
)
def test_the_first_line_decides_the_delimiter(text, delimiter):
    found, rows = delimited_rows(io.StringIO(text))
    assert found == delimiter
    assert len(list(rows)) == 1


def test_lone_surrogates_pass_and_errors_are_one_line():
    assert decoded(io.BytesIO(b"a\xed\xa0\xbdb")).read() == "a\ud83db"
    wrong = pytest.raises(InputError, match=r"rows: expected a CSV, .* not UTF-8 text \(byte 1\)")
    with wrong, csv_errors("rows"):
        decoded(io.BytesIO(b"a\xff")).read()
    with pytest.raises(InputError, match="rows: not a valid CSV"), csv_errors("rows"):
        list(delimited_rows(io.StringIO('"a'))[1])
