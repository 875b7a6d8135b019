"""A report as the dry run fills it, and a box in each mode that this machine allows."""

import shutil
import subprocess

import pytest

from humanpref.kaggle.rehearsal.environment import make_environment
from humanpref.kaggle.rehearsal.report import Report
from humanpref.kaggle.rehearsal.sandbox import make_box

# Whether the machine allows a mode is asked without our own code: a defect of it must not look like
# a forbidden mode.
ALLOWED = {"bwrap": ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"], "none": ["true"]}


@pytest.fixture(params=list(ALLOWED))
def box(request, tmp_path):
    command = ALLOWED[request.param]
    if (
        shutil.which(command[0]) is None
        or subprocess.run(command, capture_output=True).returncode != 0
    ):
        pytest.skip(f"mode {request.param} is not to be had on this machine: {' '.join(command)}")
    environment = make_environment(tmp_path / "environment", block_sockets=request.param == "none")
    box = make_box(request.param, tmp_path / "root", environment)
    (box.root / "input" / "there").write_text("seen")
    return box


@pytest.fixture
def report(tmp_path) -> Report:
    report = Report("tiny", (), "rows", "bwrap", "new", tmp_path / "out", test_rows=3)
    report.exit_codes["infer"] = 0
    return report
