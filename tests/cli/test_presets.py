import json


def test_presets_and_their_options(run):
    assert "deberta-v3-small" in run("presets")[1]
    assert [json.loads(line)["preset"] for line in run("presets", "--json")[1].splitlines()]
    lines = run("presets", "deberta-best")[1].splitlines()
    assert "training.max_grad_norm = 1.0  (float, above 0, or none)" in lines
    assert "    Passes over the training rows." in lines
    code, _, error = run("presets", "deberta-bets")
    assert code == 2
    assert "did you mean 'deberta-best'" in error
