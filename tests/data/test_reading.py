import json

import numpy as np
import pandas as pd
import pytest

from humanpref.data import (
    labels_of,
    read_faulty,
    read_labels,
    read_pairs,
    reading,
    swap_pairs,
    weights_of,
    write_pairs,
)
from humanpref.data.tables import source_name
from humanpref.schema import LABEL_COLUMNS, InputError

from ..shapes import SHAPES, check, make

HEADER = "id,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie"
GOOD = ["7", json.dumps(["p"]), json.dumps(["a"]), json.dumps(["b"]), "1", "0", "0"]


def csv_text(*rows, header=HEADER):
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    return "\n".join([header, *quoted]) + "\n"


def changed(**cells):
    names = HEADER.split(",")
    return [cells.get(name, value) for name, value in zip(names, GOOD, strict=True)]


@pytest.fixture
def read(tmp_path):
    def read(content, **arguments):
        path = tmp_path / "rows.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_pairs(path, **arguments)

    return read


def test_reads_the_competition_schema(read):
    pairs = read(csv_text(GOOD))
    assert pairs.to_dict("records") == [
        {
            "id": "7",
            "prompt": ("p",),
            "response_a": ("a",),
            "response_b": ("b",),
            "winner_model_a": 1.0,
            "winner_model_b": 0.0,
            "winner_tie": 0.0,
        }
    ]
    assert labels_of(pairs).dtype == np.float64
    assert weights_of(pairs) is None


@pytest.mark.parametrize(
    ("cell", "turns"),
    [
        ("[]", ()),
        ("", ()),
        ("null", ()),
        ("[null]", ("",)),
        ('["", null, "x"]', ("", "", "x")),
        ('["\\ud83d"]', ("\N{REPLACEMENT CHARACTER}",)),
        ('["\\ud83d\\ude00"]', ("\N{GRINNING FACE}",)),
        ('["你好，世界"]', ("你好，世界",)),
        (json.dumps(["y" * 50_000]), ("y" * 50_000,)),
        (json.dumps(["z" * 200_000]), ("z" * 200_000,)),
    ],
)
def test_quirks_of_a_cell(read, cell, turns):
    assert read(csv_text(changed(response_a=cell)))["response_a"][0] == turns


def test_raw_surrogate_bytes_are_replaced(read):
    content = csv_text(changed(prompt='["x@"]')).encode().replace(b"@", b"\xed\xa0\xbd")
    assert read(content)["prompt"][0] == ("x\N{REPLACEMENT CHARACTER}",)


def test_model_names_are_mended_as_texts_are(read, tmp_path):
    content = (
        csv_text([*GOOD, "x@", "y"], header=HEADER + ",model_a,model_b")
        .encode()
        .replace(b"@", b"\xed\xa0\xbd")
    )
    assert read(content)["model_a"].tolist() == ["x\N{REPLACEMENT CHARACTER}"]
    _, faults = read_faulty(tmp_path / "rows.csv")
    assert [(fault.kind, fault.fault) for fault in faults] == [
        ("surrogate", "column 'model_a': a lone surrogate (half a character)")
    ]


def test_what_is_written_is_read_back(pairs, tmp_path):
    names = ["a\rb", "a\nb", "a\r\nb", 'a"b', "a,b", ""]
    odd = pairs[:6].assign(model_a=pd.Series(names, dtype=object))
    write_pairs(tmp_path / "again.csv", odd)
    pd.testing.assert_frame_equal(read_pairs(tmp_path / "again.csv"), odd)


def test_byte_order_mark_line_ends_and_missing_labels(read):
    content = b"\xef\xbb\xbf" + csv_text(GOOD).replace("\n", "\r\n").encode()
    assert read(content)["id"].tolist() == ["7"]
    unlabelled = csv_text(GOOD[:4], header="id,prompt,response_a,response_b")
    assert "winner_tie" not in read(unlabelled)
    with pytest.raises(
        InputError, match="missing column 'winner_model_a', 'winner_model_b', 'winner_tie'"
    ):
        read(unlabelled, labels=True)
    assert "winner_tie" not in read(csv_text(GOOD), labels=False)


def test_ids_keep_their_spelling(read):
    rows = [changed(id="007"), changed(id="7"), changed(id="1e3")]
    assert read(csv_text(*rows))["id"].tolist() == ["007", "7", "1e3"]


def test_soft_labels_and_weights(read):
    header = HEADER + ",weight"
    soft = [*changed(winner_model_a="0.333", winner_model_b="0.333", winner_tie="0.333"), "2.5"]
    pairs = read(csv_text(soft, header=header))
    np.testing.assert_allclose(labels_of(pairs), [[1 / 3] * 3], atol=1e-15)
    assert weights_of(pairs).tolist() == [2.5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (csv_text(GOOD[:3], header="id,prompt,response_a"), "missing column 'response_b'"),
        (
            csv_text(changed(winner_model_a="0")[:6], header=HEADER.removesuffix(",winner_tie")),
            "columns 'winner_model_a', 'winner_model_b': expected a sum of 1, got 0",
        ),
        (
            csv_text(GOOD, header=HEADER.replace("response_b", "prompt")),
            "column 'prompt' appears twice in the header",
        ),
        (
            csv_text(changed(prompt="hello")),
            r"row 1 \(id '7'\): column 'prompt': not JSON.*'hello'",
        ),
        (csv_text(changed(prompt="['hello']")), "not JSON"),
        (
            csv_text(changed(response_b='{"a": "b"}')),
            "column 'response_b': expected a JSON list of strings, got a JSON object",
        ),
        (csv_text(changed(response_b='"b"')), "got a JSON string"),
        (csv_text(changed(response_b="3")), "got a JSON value"),
        (csv_text(changed(response_b='["b", 3]')), "turn 2: expected a string or null, got '3'"),
        (
            csv_text(changed(winner_tie="yes")),
            r"column 'winner_tie': expected a number in \[0, 1\], got 'yes'",
        ),
        (csv_text(changed(winner_tie="nan")), "column 'winner_tie'"),
        (csv_text(changed(winner_model_a="1.2")), "column 'winner_model_a'"),
        (csv_text(changed(winner_model_a="")), "column 'winner_model_a'"),
        (csv_text(changed(winner_model_b="1")), "expected a sum of 1, got 2"),
        (csv_text(changed(winner_model_a="0")), "expected a sum of 1, got 0"),
        (
            csv_text(GOOD, changed(id="8"), GOOD),
            r"row 3 \(id '7'\): duplicate id, first seen in row 1",
        ),
        (csv_text(changed(id="")), "row 1: column 'id': expected printable text, got ''"),
        (csv_text([*GOOD, "-1"], header=HEADER + ",weight"), "column 'weight'"),
        *(
            (
                csv_text([*GOOD, weight], header=HEADER + ",weight"),
                "column 'weight': expected 0, or",
            )
            for weight in ("inf", "1e39", "5e-324")
        ),
        (
            csv_text([*GOOD, "0"], header=HEADER + ",weight"),
            "expected a positive, finite sum, got 0",
        ),
        (csv_text(GOOD[:5]), "row 1: expected 7 fields"),
        ("", "the file is empty"),
        (HEADER + "\n", "there is a header but no rows"),
        (b"PK\x03\x04\xff\xfe\x00\x01", "cannot be read .* is it truncated"),
        (b"\x00\x01\x02\x00", "expected text or Parquet, got binary data"),
        (b"id,prompt\xff", "not UTF-8 text"),
        (csv_text(GOOD, changed(id="8", prompt="[1]")), "row 2 .*turn 1: .*format competition: a"),
        (csv_text(GOOD)[:-20], "not a valid CSV"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_place(read, tmp_path, content, message):
    with pytest.raises(InputError, match=message) as caught:
        read(content)
    assert str(tmp_path / "rows.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lenient_reading_takes_an_odd_text_as_it_stands(read, caplog):
    rows = [changed(prompt="plain \ud83d"), changed(id="8", response_a='{"a": 1}'), changed(id="9")]
    content = csv_text(*rows).encode("utf-8", "surrogatepass")
    pairs = read(content, lenient=True)
    assert pairs["prompt"].tolist() == [("plain \N{REPLACEMENT CHARACTER}",), ("p",), ("p",)]
    assert pairs["response_a"].tolist() == [("a",), ('{"a": 1}',), ("a",)]
    assert "row 2 (id '8'): column 'response_a'" in caplog.text
    assert read(csv_text(GOOD, GOOD), lenient=True)["id"].tolist() == ["7", "7"]
    assert "row 2 (id '7'): duplicate id, first seen in row 1" in caplog.text


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_told_by_its_content_and_read(tmp_path, name, caplog):
    source, shape = make(name, tmp_path), SHAPES[name]
    with caplog.at_level("INFO"):
        pairs = read_pairs(source)
    check(pairs, name)
    (line,) = caplog.messages
    assert line.startswith(f"{source_name(source)}: {len(pairs)} rows; format {shape.format} (")
    assert ("no ties, hence two classes" in line) == (not shape.ties)
    pd.testing.assert_frame_equal(read_pairs(source, format=shape.format), pairs)
    pd.testing.assert_frame_equal(read_pairs(pairs), pairs)
    texts = read_pairs(source, labels=False)
    pd.testing.assert_frame_equal(texts, pairs[list(texts)])
    assert not set(texts) & set(LABEL_COLUMNS)


PLAIN = "id,prompt,response_a,response_b\n"


def test_a_mixture_is_refused_unless_the_format_is_named(read):
    mixed = PLAIN + '1,p,a,b\n2,q,a,"[""b""]"\n'
    with pytest.raises(
        InputError, match=r"row 2 \(id '2'\): column 'response_b': expected a plain "
    ):
        read(mixed)
    assert read(mixed, format="plain")["response_b"].tolist() == [("b",), ('["b"]',)]
    with pytest.raises(InputError, match=r"row 1 \(id '1'\): column 'prompt': not JSON"):
        read(mixed, format="competition")
    with pytest.raises(InputError, match=r"format 'odd': expected one of competition, plain"):
        read(mixed, format="odd")


def test_lists_in_pythons_notation_are_not_taken_for_plain_texts(read):
    rows = PLAIN + "1,\"['p']\",\"['a', 'b']\",\"['b']\"\n"
    with pytest.raises(InputError, match=r"row 1 .*column 'prompt': expected JSON or a plain str"):
        read(rows)
    assert read(rows, format="plain")["prompt"].tolist() == [("['p']",)]


def test_lenient_reading_of_plain_texts_says_nothing(read, caplog):
    mixed = PLAIN + '1,p,a,b\n2,q,null,"[""b""]"\n'
    pairs = read(mixed, lenient=True)
    assert pairs["response_a"].tolist() == [("a",), ("null",)]
    assert pairs["response_b"].tolist() == [("b",), ('["b"]',)]
    assert not caplog.records
    both = '{"prompt": "p", "response_a": "a", "response_b": "b", "chosen": "x", "rejected": "y"}'
    assert read(both, lenient=True)["response_a"].tolist() == [("a",)]
    with pytest.raises(InputError, match="has the columns of several formats"):
        read(both)


def test_wsdm_cup_has_no_ties_and_its_test_file_no_labels(read):
    rows = "id,prompt,response_a,response_b,winner,language\n1,p,a,b,{},en\n"
    assert "winner_tie" not in read(rows.format("model_a"))
    assert "winner_tie" in read(rows.format("tie"))
    assert "winner_tie" in read(rows.format("model_a"), format="plain")
    with pytest.raises(InputError, match="column 'winner': expected model_a, model_b, got 'tie'"):
        read(rows.format("tie"), format="wsdm")
    pairs = read("id,prompt,response_a,response_b,scored\n1,p,a,b,1\n")
    assert list(pairs) == ["id", "prompt", "response_a", "response_b"]


def test_ids_are_exact_or_numbered(read, caplog):
    large = 2**60 + 1
    line = '{{"id": {}, "prompt": "p", "response_a": "a", "response_b": "b"}}\n'
    assert read(line.format(large))["id"].tolist() == [str(large)]
    assert read(line.format('"007"') + line.format(7))["id"].tolist() == ["007", "7"]
    for key, message in (
        ("null", "got nothing"),
        ("1e300", r"below 2\*\*53, got 1e[+]300"),
        ("0.5", "got 0.5"),
        ('""', "expected printable text"),
    ):
        with pytest.raises(InputError, match=f"row 1: column 'id': .*{message}"):
            read(line.format(key))
    with caplog.at_level("INFO"):
        assert read("prompt,response_a,response_b\np,a,b\nq,c,d\n")["id"].tolist() == ["0", "1"]
    assert "ids numbered from 0" in caplog.text


def asked(question, answer, winner="model_a"):
    turns = [{"role": "user", "content": "p"}, {"role": "assistant", "content": answer}]
    other = [turns[0], {"role": "assistant", "content": "b"}]
    row = {"conversation_a": turns, "conversation_b": other, "winner": winner}
    return row | {"question_id": question}


def test_a_question_may_be_judged_several_times(caplog):
    """As in MT-bench, whose judges answer the same questions."""
    rows = [asked(81, "a"), asked(81, "c", "tie"), asked(82, "d"), asked(81, "e")]
    with caplog.at_level("INFO"):
        pairs = read_pairs(rows)
    assert pairs["id"].tolist() == ["0", "1", "2", "3"]
    assert pairs["response_a"].tolist() == [("a",), ("c",), ("d",), ("e",)]
    why = "ids numbered from 0, since question_id is not unique (row 2 repeats '81' of row 1)"
    assert why in caplog.text
    assert read_faulty(rows)[1] == []
    assert reading.read(rows).lost == ["the column 'question_id'"]
    caplog.clear()
    with caplog.at_level("INFO"):
        assert read_pairs(rows[1:3])["id"].tolist() == ["81", "82"]
    assert "numbered" not in caplog.text


def test_numbers_of_questions_do_not_depend_on_the_labels():
    rows = [{"question_id": 1, "chosen": f"p {x}", "rejected": f"p {y}"} for x, y in ("ab", "cc")]
    rows += [{**rows[0], "chosen": "p d"}]
    assert read_pairs(rows, labels=True)["id"].tolist() == ["0", "2"]
    assert read_pairs(rows, labels=False)["id"].tolist() == ["0", "1", "2"]


def test_ids_that_labels_are_matched_by_stay_unique():
    rows = [{"question_id": 1, "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}] * 2
    with pytest.raises(InputError, match=r"row 2 \(id '1'\): duplicate id, first seen in row 1"):
        read_labels(rows)


def test_an_answer_that_is_only_the_beginning_of_the_other_is_counted(caplog):
    rows = [{"chosen": "So it is.", "rejected": "So it"}, {"chosen": "p a", "rejected": "p b"}]
    pairs = read_pairs(rows)
    assert sorted(turns for row in pairs.to_numpy() for turns in row[2:4]) == [
        *[("",), (" is.",), ("a",), ("b",)]
    ]
    assert "these rows: an answer is empty in 1 of 2 rows; without a column 'prompt'" in caplog.text
    caplog.clear()
    read_pairs([row | {"prompt": "p"} for row in rows])
    read_pairs(rows[1:])
    assert "empty" not in caplog.text


def test_a_guess_that_there_are_no_ties_names_the_format_that_has_them(caplog):
    rows = [{"prompt": "p", "response_a": "a", "response_b": "b", "winner": "model_a"}]
    rows = [row | {"language": "English"} for row in rows]
    with caplog.at_level("INFO"):
        assert "winner_tie" not in read_pairs(rows)
    assert "two classes (as in WSDM Cup; --format plain keeps three)" in caplog.text
    assert read_pairs(rows, format="plain")["winner_tie"].tolist() == [0.0]
    caplog.clear()
    with caplog.at_level("INFO"):
        read_pairs(rows, format="wsdm")
    assert caplog.messages[0].endswith("; no ties, hence two classes; ids numbered from 0")


def test_a_frame_without_ties_is_written_and_read_back(tmp_path):
    pairs = read_pairs([{"prompt": "p", "chosen": "a", "rejected": "b", "weight": 2}])
    for name in ("pairs.csv", "pairs.jsonl"):
        write_pairs(tmp_path / name, pairs)
        pd.testing.assert_frame_equal(read_pairs(tmp_path / name), pairs)


def test_faults_of_other_formats_are_listed(tmp_path):
    def asked(answer):
        return [{"role": "user", "content": "p"}, {"role": "assistant", "content": answer}]

    rows = [
        {"id": 1, "chosen": asked(None), "rejected": asked("\ud83d")},
        {"id": 2, "chosen": asked("a")[:1], "rejected": "odd"},
        {"id": 3, "chosen": asked("a"), "rejected": asked("a")},
        {"id": 4},
    ]
    (tmp_path / "rows").write_text(json.dumps(rows))
    pairs, faults = read_faulty(tmp_path / "rows")
    assert pairs["id"].tolist() == ["1", "2"]
    assert [(fault.row, fault.kind) for fault in faults] == [
        (1, "null"),
        (1, "surrogate"),
        (2, "text"),
        (3, "equal"),
        (4, "fields"),
    ]
    assert faults[-1].fault == "column 'chosen': missing, but other rows have it"


def test_a_fault_in_a_shard_names_its_file_and_its_row_there(tmp_path):
    for number, rows in enumerate(["1,p,a,b\n2,q,c,d\n", "3,p,a,b\n,q,c,d\n"]):
        (tmp_path / f"{number}.csv").write_text(PLAIN + rows)
    with pytest.raises(InputError, match=r"1\.csv: row 2: column 'id': expected printable text"):
        read_pairs(tmp_path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.csv: cannot be read \(No such file"):
        read_pairs(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_pairs(tmp_path)


@pytest.mark.parametrize("column", ["model_a", "model_b"])
def test_a_model_column_alone_is_not_read_and_said(write_csv, column, caplog):
    path = write_csv([(["p"], ["a"], ["b"], 0)], **{column: ["m"]})
    other = {"model_a": "model_b", "model_b": "model_a"}[column]
    pairs = read_pairs(path)
    assert not {column, other} & set(pairs)
    assert f"{path}: ignoring column {column!r} because {other!r} is missing" in caplog.text
    assert swap_pairs(pairs)["response_a"].tolist() == [("b",)]


def test_real_rows(real_data):
    pairs = read_pairs(real_data / "arena_train.csv", labels=True)
    assert len(pairs) == 1_000
    assert labels_of(pairs).sum() == 1_000
    assert read_pairs(real_data / "sample_test.csv")["id"].tolist() == [
        "136060",
        "211333",
        "1233961",
    ]


def test_every_odd_row_is_listed_and_usable_ones_are_kept(tmp_path):
    path = tmp_path / "rows.csv"
    rows = [
        changed(id="1", prompt='["p", null]', response_a="", response_b="null"),
        changed(id="2", response_a='["\\ud83d"]'),
        changed(id="3", prompt="plain"),
        changed(id="4", winner_tie="1"),
        changed(id="4"),
        changed(id="5"),
        GOOD[:3],
    ]
    path.write_text(csv_text(*rows))
    pairs, faults = read_faulty(path)
    assert pairs["id"].tolist() == ["1", "2", "3", "5"]
    assert pairs["prompt"].tolist() == [("p", ""), ("p",), ("plain",), ("p",)]
    assert [(fault.row, fault.id, fault.kind) for fault in faults] == [
        (1, "1", "null"),
        (1, "1", "null"),
        (1, "1", "null"),
        (2, "2", "surrogate"),
        (3, "3", "text"),
        (4, "4", "label"),
        (5, "4", "id"),
        (7, "", "fields"),
    ]
    assert faults[0].fault == "column 'prompt': turn 2 is null"
    assert faults[-1].at(path) == f"{path}: row 7: expected 7 fields as in the header, got 3"


def test_a_file_without_a_usable_row(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(csv_text(changed(id="")))
    with pytest.raises(InputError, match=r"no usable row: .*row 1: column 'id'"):
        read_faulty(path)


def test_labels_are_read_with_and_without_texts(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("id,winner_tie,winner_model_a,winner_model_b\n7,0.5,0.25,0.25\n")
    labels = read_labels(path)
    assert list(labels) == ["id", "winner_model_a", "winner_model_b", "winner_tie"]
    np.testing.assert_array_equal(labels_of(labels), [[0.25, 0.25, 0.5]])
    path.write_text(csv_text(GOOD))
    assert read_labels(path)["prompt"].tolist() == [("p",)]
    path.write_text("id,winner_tie\n7,1\n")
    with pytest.raises(InputError, match="missing column 'winner_model_a', 'winner_model_b'"):
        read_labels(path)


def test_weights_without_labels(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(csv_text([*GOOD, "2"], header=HEADER + ",weight"))
    assert "weight" not in read_pairs(path, labels=False)
    pairs = read_pairs(path, labels=False, weights=True)
    assert pairs["weight"].tolist() == [2.0]
    assert "winner_tie" not in pairs


@pytest.mark.parametrize("labels", [True, False])
def test_empty_prompts_are_counted(write_csv, caplog, labels):
    rows = [
        (["p"], ["a"], ["b"], 0),
        (["", " "], ["a", "c"], ["b", "d"], 1),
        ([""], ["a"], [""], 2),
    ]
    path = write_csv(rows)
    read_pairs(path, labels=labels)
    assert f"{path}: the prompt is empty in 2 of 3 rows" in caplog.messages
    caplog.clear()
    read_pairs(write_csv(rows[:1]), labels=labels)
    assert "empty" not in caplog.text
