import re

import numpy as np
import pytest

from humanpref.data import check_submission, write_submission
from humanpref.schema import InputError

IDS = ["30", "4", "17"]
HEADER = "id,winner_model_a,winner_model_b,winner_tie\n"
PROBABILITIES = np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])


@pytest.fixture
def test_csv(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text(
        "id,prompt,response_a,response_b\n"
        + "".join(f'{i},"[""p""]","[""a""]","[""b""]"\n' for i in IDS)
    )
    return path


def test_what_is_written_passes_the_check_and_reads_back(tmp_path, test_csv):
    path = tmp_path / "submission.csv"
    write_submission(path, IDS, PROBABILITIES)
    assert check_submission(path, test_csv) == []
    lines = path.read_text().splitlines()
    assert lines[0] + "\n" == HEADER
    np.testing.assert_array_equal(
        [[float(x) for x in line.split(",")[1:]] for line in lines[1:]], PROBABILITIES
    )


def test_a_submission_may_name_the_winners(tmp_path, test_csv):
    path, columns = tmp_path / "submission.csv", ("id", "winner")
    write_submission(path, IDS, PROBABILITIES, columns)
    text = "id,winner\n30,model_b\n4,model_a\n17,model_a\n"
    assert path.read_text() == text
    assert check_submission(path, test_csv, columns) == []
    with pytest.raises(ValueError, match="expected probabilities"):
        write_submission(path, IDS, PROBABILITIES * 2, columns)
    for wrong, fault in (
        (text.replace("model_b", "tie"), "row 1 (id '30'): expected model_a or model_b, got 'tie'"),
        (text.replace("winner", "winner_model_a"), "expected the header id,winner"),
        (text.replace("17,", "71,"), "row 3: expected id '17', got '71'"),
    ):
        path.write_text(wrong)
        assert any(fault in found for found in check_submission(path, test_csv, columns))


@pytest.mark.parametrize(
    "bad",
    [
        np.full((3, 3), 0.5),
        np.full((3, 3), np.nan),
        np.array([[1.5, -0.5, 0]] * 3),
        np.full((2, 3), 1 / 3),
    ],
)
def test_bad_probabilities_are_not_written(tmp_path, bad):
    with pytest.raises(ValueError, match=r"probabilities"):
        write_submission(tmp_path / "submission.csv", IDS, bad)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "id,winner_model_b,winner_model_a,winner_tie\n30,1,0,0\n4,1,0,0\n17,1,0,0\n",
            "expected the header",
        ),
        (",id,winner_model_a,winner_model_b,winner_tie\n0,30,1,0,0\n", "expected the header"),
        (HEADER + "30,1,0,0\n4,1,0,0\n", "expected 3 rows"),
        (HEADER + "4,1,0,0\n30,1,0,0\n17,1,0,0\n", "in a different order"),
        (HEADER + "136060,1,0,0\n211333,1,0,0\n1233961,1,0,0\n", "not the test file's"),
        (HEADER + "30,1,0,0\n4,,0,0\n17,1,0,0\n", "row 2 (id '4'): not a finite number"),
        (HEADER + "30,1,0,0\n4,inf,0,0\n17,1,0,0\n", "not a finite number"),
        (HEADER + "30,1.5,-0.5,0\n4,1,0,0\n17,1,0,0\n", "row 1 (id '30'): outside [0, 1]"),
        (
            HEADER + "30,1,0,0\n4,1,0,0\n17,0.5,0.4,0\n",
            "row 3 (id '17'): probabilities do not sum to 1",
        ),
        ("", "expected the header"),
    ],
)
def test_faults_are_found(tmp_path, test_csv, text, fault):
    path = tmp_path / "submission.csv"
    path.write_text(text)
    assert any(fault in found for found in check_submission(path, test_csv)), check_submission(
        path, test_csv
    )


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("4", "row 2: expected 2 fields as in the header, got 1"),
        (",p", "row 2: column 'id': expected printable text, got ''"),
    ],
)
def test_a_test_file_with_a_row_that_cannot_be_used_is_refused(tmp_path, row, told):
    (tmp_path / "test.csv").write_text(f"id,prompt\n30,p\n{row}\n")
    write_submission(tmp_path / "submission.csv", IDS, PROBABILITIES)
    with pytest.raises(InputError, match=re.escape(f"test.csv: {told}")):
        check_submission(tmp_path / "submission.csv", tmp_path / "test.csv")


def test_missing_files(tmp_path, test_csv):
    assert "cannot be read" in check_submission(tmp_path / "none.csv", test_csv)[0]
    with pytest.raises(InputError, match="cannot be read"):
        check_submission(test_csv, tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot be written"):
        write_submission(tmp_path / "nowhere" / "s.csv", IDS, PROBABILITIES)
