from pathlib import Path


def test_sample_writes_the_arena_and_its_best_log_loss(run):
    code, out, _ = run("sample", "--rows", 20, "--seed", 1, "--out", "one")
    assert code == 0
    first, second = out.splitlines()
    assert first == "one: 20 training and 4 test rows"
    assert 0.5 < float(second.removeprefix("best reachable log loss: ")) < 1.2
    run("sample", "--rows", 20, "--seed", 1, "--out", "two")
    assert Path("one/train.csv").read_bytes() == Path("two/train.csv").read_bytes()
