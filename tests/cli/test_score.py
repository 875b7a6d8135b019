import json
from pathlib import Path


def test_lines_get_their_probabilities(run, artifact):
    pair = {"prompt": "p", "response_a": "a", "response_b": "b"}
    Path("pairs.jsonl").write_text(json.dumps(pair) + "\n")
    code, out, _ = run("score", artifact, "--in", "pairs.jsonl", "--out", "scored.jsonl")
    assert (code, out) == (0, "scored.jsonl: 1 row\n")
    scored = json.loads(Path("scored.jsonl").read_text())
    assert scored.items() >= pair.items()
    assert len(scored) > len(pair)


def test_a_folder_of_shards_is_judged_by_the_packaged_judge_or_an_artifact(run, artifact):
    Path("in").mkdir()
    for name in "ab":
        pair = {"prompt": "p", "response_a": name, "response_b": "b"}
        Path(f"in/{name}.jsonl").write_text(json.dumps(pair) + "\n")
    code, out, _ = run("score", "--in", "in", "--out", "out")
    assert (code, out) == (0, "out: 2 shards, 2 rows\n")
    assert run("score", "--in", "in", "--out", "out")[1] == (
        "out: 2 shards (2 already finished), 2 rows\n"
    )
    assert run("score", artifact, "--in", "in", "--out", "by-artifact")[0] == 0
    packaged, other = (json.loads(Path(f"{o}/a.jsonl").read_text()) for o in ("out", "by-artifact"))
    assert packaged["p_a"] != other["p_a"]
    code, _, _ = run("score", "--in", "in/a.jsonl", "--out", "one.jsonl")
    assert (code, json.loads(Path("one.jsonl").read_text())) == (0, packaged)


def test_only_a_folder_is_judged_by_ray(run):
    Path("a.jsonl").write_text("{}")
    code, _, err = run("score", "--in", "a.jsonl", "--out", "o", "--engine", "ray")
    assert (code, "need a folder of shards" in err) == (2, True)
