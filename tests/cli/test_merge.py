import pytest


def test_only_lora_models_are_merged(run, artifact):
    pytest.importorskip("torch")
    code, out, error = run("merge", artifact, "--out", "merged")
    assert (code, out) == (2, "")
    assert "expected family decoder or dpo" in error
