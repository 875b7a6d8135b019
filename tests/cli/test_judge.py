import io
import json
import math

import pytest

import humanpref
from humanpref.interfaces.linear import CARD_FILE, PACKAGED

PAIR = ("--prompt", "Why?", "--a", "So.", "--b", "Because:\n\n- one\n- two")


@pytest.fixture
def stdin(monkeypatch):
    """Put bytes on standard input."""

    def put(content: bytes):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    return put


def judged(run, *arguments):
    code, out, err = run("judge", *arguments, "--json")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    return json.loads(out)


def test_it_prints_probabilities_shares_what_was_cut_and_the_bias(run):
    code, out, err = run("judge", *PAIR)
    assert (code, err) == (0, "")
    own = judged(run, *PAIR)
    lines = out.splitlines()
    shown = f"P(A) {own['p_a']:.3f}   P(B) {own['p_b']:.3f}   P(tie) {own['p_tie']:.3f}"
    assert lines[0] == shown
    assert own["p_b"] > own["p_a"]
    share = own["margin_shares"]["log_list_items_difference"]
    assert f"  for B      {share:+.3f}  list items" in lines
    assert "cut: nothing" in lines
    assert "longer answer" in lines[-2]
    assert lines[-1].endswith(str(PACKAGED / CARD_FILE))


def test_the_listed_shares_add_up(run):
    code, out, _ = run("judge", *PAIR)
    assert code == 0
    margin, tie = out.split("\ntie against")
    for part, score in ((margin, "margin"), (tie, "tie_score")):
        shares = [float(line.split()[-1 - words]) for line, words in listed(part)]
        assert math.fsum(shares) == pytest.approx(judged(run, *PAIR)[score], abs=0.006)


def listed(part):
    """The lines with a share, and how many words follow it."""
    for line in part.splitlines():
        if line.startswith("  "):
            words = line.split()
            place = next(i for i, word in enumerate(words) if word[0] in "+-" and "." in word)
            yield line, len(words) - 1 - place


def test_texts_from_files_and_from_standard_input(run, tmp_path, stdin):
    (tmp_path / "a.txt").write_bytes(b"So.\nYes.\n")
    stdin("\ufeffWäre?\r\n".encode())
    own = judged(run, "--prompt", "-", "--a", "@a.txt", "--b", "@@home")
    expected = humanpref.load().judge("Wäre?", "So.\nYes.", "@home").to_dict()
    assert {name: own[name] for name in expected} == expected


def test_turns_as_json_lists(run):
    turns = ["--prompt", '["Why?", "When?"]', "--a", '["So.", "Now."]', "--b", '["No.", "Never."]']
    own = judged(run, *turns)
    assert own["tie_shares"] != judged(run, *turns[:-1], "Never.")["tie_shares"]


def test_another_model(run, artifact, caplog):
    own = judged(run, *PAIR, "--model", artifact)
    assert own["model"] == str(artifact)
    assert own["margin_shares"] == {}
    with caplog.at_level("INFO"):
        code, out, _ = run("judge", *PAIR, "--model", artifact)
    assert (code, caplog.text) == (0, "")  # nothing about a table of one row
    assert out.splitlines()[0].startswith("P(A) 0.")
    assert "packaged" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--a", "@nowhere.txt"), "--a: 'nowhere.txt': cannot be read (No such file"),
        (("--a", "@latin.txt"), "--a: latin.txt: expected UTF-8 text, but byte 1 is not UTF-8"),
        (("--a", "-", "--b", "-"), "standard input (-) can be used for only one of"),
        (("--model", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_read_is_refused(run, tmp_path, arguments, message):
    (tmp_path / "latin.txt").write_bytes(b"W\xe4re")
    code, out, err = run("judge", *PAIR, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
