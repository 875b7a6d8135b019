import sys

import pandas as pd
import pytest

from humanpref.reports.eda import explore
from humanpref.reports.page import write_page, write_tables
from humanpref.schema import InputError


@pytest.mark.filterwarnings("ignore:Glyph")
def test_texts_are_escaped(write_csv, tmp_path):
    pytest.importorskip("matplotlib")
    hostile = "<script>alert(1)</script>\u202e\x1b"
    rows = [([hostile], ["a"], ["b"], 0), ([hostile], ["a"], ["c"], 1)]
    names = {"model_a": "<img src=x onerror='alert(2)'>", "model_b": "</td>&\x07"}
    explore(write_csv(rows, name="<b>&.csv", **names), tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    for text in ("<script", "<img src=x", "</td>&", "<b>&", "\u202e", "\x1b", "\x07"):
        assert text not in page
    assert "What is in &lt;b&gt;&amp;.csv</title>" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;��</td>" in page
    assert "&lt;img src=x onerror=&#39;alert(2)&#39;&gt;</td>" in page
    assert "&lt;/td&gt;&amp;�</td>" in page


def test_tables_as_files(tmp_path):
    write_tables(tmp_path, {"names": pd.DataFrame({"name": ["a,b", "ü"], "n": [1, 2]})})
    assert (tmp_path / "tables" / "names.csv").read_bytes() == 'name,n\n"a,b",1\nü,2\n'.encode()


def test_without_jinja2(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(InputError, match=r"pip install .*\[figures\]"):
        write_page(tmp_path, "eda.html.j2", title="")
