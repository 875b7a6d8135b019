"""What tests of several commands share."""

GOOD = {
    "id": "1",
    "prompt": '["p"]',
    "response_a": '["a"]',
    "response_b": '["b"]',
    "winner_model_a": "1",
    "winner_model_b": "0",
    "winner_tie": "0",
}


def refused(result, *words):
    """Assert exit code 2 and one line on standard error that holds the words."""
    code, out, err = result
    assert code == 2, (code, out, err)
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("humanpref: ")
    for word in words:
        assert word in err, err
