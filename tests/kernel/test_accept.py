"""The acceptance kernel on a made-up Kaggle tree, with a stand-in for the package."""

import zipfile

import pytest

from humanpref.files import sha256
from humanpref.kaggle.contract import MARKER
from humanpref.kaggle.rehearsal.environment import make_environment

from ..kaggle.tree import PROJECT, Tree, write_manifest

KERNEL = PROJECT / "kernel" / "accept" / "accept.py"
TABLE = """
import sys
from pathlib import Path

words = sys.argv[1:]
assert "--quick" not in words
Path(words[words.index("--table") + 1]).write_text("| a |\\n\\nFAIL: one\\n")
Path(words[words.index("--json") + 1]).write_text("{}")
sys.exit(1)
"""
INFO = "humanpref-9.9.dist-info"


@pytest.fixture
def ran(tmp_path):
    """Run the kernel with checks that do this."""

    def run(checks):
        tree = Tree(tmp_path / "kaggle")
        tree.dataset.mkdir(parents=True)
        files = {
            "humanpref/__init__.py": "",
            "humanpref/kaggle/__init__.py": "",
            "humanpref/kaggle/acceptance.py": checks,
            f"{INFO}/METADATA": "Metadata-Version: 2.1\nName: humanpref\nVersion: 9.9\n",
            f"{INFO}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        files[f"{INFO}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{INFO}/RECORD"))
        with zipfile.ZipFile(tree.dataset / "humanpref-9.9-py3-none-any.whl", "w") as wheel:
            for name, text in files.items():
                wheel.writestr(name, text)
        write_manifest(tree.dataset)
        return tree, tree.run(KERNEL, make_environment(tmp_path / "environment"))

    return run


@pytest.mark.slow
def test_a_failed_check_is_no_failed_run(ran):
    tree, done = ran(TABLE)
    assert done.returncode == 0, done.stderr
    assert (tree.working / "acceptance.md").read_text().endswith("FAIL: one\n")
    assert tree.status == {"manifest": sha256(tree.dataset / MARKER), "degraded": []}


@pytest.mark.slow
def test_a_run_without_a_table_fails(ran):
    tree, done = ran("raise SystemExit(3)")
    assert done.returncode == 1
    assert "the checks ended with 3 and left no table" in done.stderr
    assert tree.status["degraded"] == ["the checks have not ended"]
