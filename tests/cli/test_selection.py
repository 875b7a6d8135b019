import shutil

import pytest

from humanpref.files import read_json
from humanpref.runs.artifact_files import seal


def test_the_path_of_a_selection(run, artifact, tmp_path):
    code, out, error = run("selection", artifact)
    assert (code, out) == (2, "")
    assert "selected no columns" in error
    assert "model.selection" in error
    copy = shutil.copytree(artifact, tmp_path / "copy")
    (copy / "fold-1" / "selection.csv").write_text(
        "step,action,column,columns,log_loss,kept\n0,start,,2,1.05,True\n"
        "1,remove,identical,1,1.06,False\n"
    )
    seal(copy, read_json(copy / "artifact.json"))
    code, out, _ = run("selection", copy)
    assert code == 0
    assert "| 0 | start |  | 2 | 1.0500 | True | fold-1 |" in out
    for name in ("path.foo", "path", ".png"):
        error = run("selection", "none", "--figure", name)[2]
        assert f"--figure {name}: expected a name that ends in .png" in error
    pytest.importorskip("matplotlib")
    assert run("selection", copy, "--figure", tmp_path / "path.png")[0] == 0
    assert (tmp_path / "path.png").read_bytes().startswith(b"\x89PNG")
