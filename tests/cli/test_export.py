import pytest


def test_only_decoders_are_exported(run, artifact):
    pytest.importorskip("torch")
    code, out, error = run("export", artifact, "--out", "plain")
    assert (code, out) == (2, "")
    assert "expected family decoder, got prior" in error
