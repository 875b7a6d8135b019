from humanpref.data.formats.row import as_plain


def test_any_cell_as_one_turn():
    assert as_plain("a") == ("a",)
    assert as_plain("\ud83d") == ("\N{REPLACEMENT CHARACTER}",)
    assert as_plain(None) == as_plain(float("nan")) == ()
    assert as_plain(["a", {"b": 1}]) == ('["a", {"b": 1}]',)
