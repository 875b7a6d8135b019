import json
from pathlib import Path


def test_lines_get_their_probabilities(run, artifact):
    pair = {"prompt": "p", "response_a": "a", "response_b": "b"}
    Path("pairs.jsonl").write_text(json.dumps(pair) + "\n")
    code, out, _ = run("score", artifact, "--in", "pairs.jsonl", "--out", "scored.jsonl")
    assert (code, out) == (0, "scored.jsonl: 1 lines\n")
    scored = json.loads(Path("scored.jsonl").read_text())
    assert scored.items() >= pair.items()
    assert len(scored) > len(pair)
