from humanpref.reports.faults import FAULT_MEANINGS, fault_table, row_faults


def test_faults_name_their_rows(few):
    pairs, faults = few
    assert faults == []
    found = row_faults(pairs, [1, 2, 3, 4, 5])
    assert [(fault.row, fault.id, fault.kind) for fault in found] == [
        (3, "102", "turns"),
        (3, "102", "decided, identical"),
        (5, "104", "mirror"),
        (5, "104", "contradiction"),
    ]
    table = fault_table(found).set_index("kind")
    assert table.loc["mirror", "first_ids"] == "104"
    assert set(table.index) <= set(FAULT_MEANINGS)


def test_copies_and_models_without_labels(few):
    pairs, _ = few
    pairs = pairs.iloc[[0, 0, 4]].reset_index(drop=True).assign(id=["x", "y", "z"], model_b="m")
    pairs = pairs.drop(columns=["winner_model_a", "winner_model_b", "winner_tie"])
    assert [tuple(fault) for fault in row_faults(pairs, [2, 5, 9])] == [
        (2, "x", "same model", "m"),
        (5, "y", "same model", "m"),
        (5, "y", "copy", "id x"),
        (9, "z", "same model", "m"),
        (9, "z", "mirror", "id x"),
    ]
    assert fault_table(
        row_faults(pairs.drop(columns="model_a"), [2, 5, 9])
    ).to_numpy().tolist() == [
        ["copy", FAULT_MEANINGS["copy"], 1, 1, "y"],
        ["mirror", FAULT_MEANINGS["mirror"], 1, 1, "z"],
    ]
