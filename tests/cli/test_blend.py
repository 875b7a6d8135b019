def test_a_blend_needs_two_artifacts(run, artifact):
    code, out, error = run("blend", artifact, "--out", "blend")
    assert (code, out) == (2, "")
    assert "at least two" in error
    code, _, error = run("blend", artifact, artifact, "--out", "blend", "--mean", "harmonic")
    assert code == 2
    assert "harmonic" in error
