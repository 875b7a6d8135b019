import re
from pathlib import Path

import humanpref
from humanpref.version import __version__


def test_the_package_has_the_version_that_setup_reads():
    setup = (Path(__file__).parents[1] / "setup.py").read_text(encoding="utf-8")
    assert "src/humanpref/version.py" in setup
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert humanpref.__version__ == __version__
