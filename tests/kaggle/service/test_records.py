"""The record of what was pushed."""

import pytest

from humanpref.kaggle.service.records import Records
from humanpref.schema import InputError


def test_records(tmp_path):
    records = Records(tmp_path)
    assert records["train"] == {}
    records.write("train", "sending", ref="me/a-kernel", digest="1", base=3)
    assert Records(tmp_path)["train"] == {
        "ref": "me/a-kernel",
        "digest": "1",
        "base": 3,
        "state": "sending",
    }
    with pytest.raises(InputError, match="the last one was sending: humanpref kaggle push --train"):
        Records(tmp_path).require("train", "push --train")
    records.update("train", state="done", version=4)
    assert Records(tmp_path).require("train", "push")["version"] == 4


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": 2}', '{"format": 1, "train": {}}', '{"format": 1, "train": 1}'],
)
def test_records_of_another_kind(tmp_path, content):
    (tmp_path / ".humanpref").mkdir()
    (tmp_path / ".humanpref" / "pushes.json").write_text(content)
    with pytest.raises(InputError, match=r"pushes\.json: "):
        Records(tmp_path)
