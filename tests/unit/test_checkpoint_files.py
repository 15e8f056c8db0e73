"""What the files of a source hold is told by their bytes: documents, JSON Lines, arrays, packed or not."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headgate._native import parquet
from headgate.checkpoint import update

BOM = b"\xef\xbb\xbf"
ONE, TWO = b'{"n": 1}', b'{"n": 2}'
PRETTY = json.dumps({"n": 1, "more": {"deep": [{"x": "}{"}]}}, indent=2).encode()
RECORD = {"n": 1, "text": 'a}{][\\"\n,é', "list": [[], {}, [1, "]"]], "none": None}


def run(folder, bodies, **options):
    """(the values of n, the problems with their offsets) of a folder with these files."""
    folder.mkdir()
    for name, body in bodies.items():
        path = folder / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    done = update(folder / "src", folder / "o.parquet", schema="infer", settle_s=0, **options)
    assert done.adds_up() == []
    rows = pq.read_table(folder / "o.parquet")["n"].to_pylist() if done.committed else []
    return sorted(rows), [(reject.offset, reject.problems[0][1]) for reject in done.rejects]


GOOD = {
    "a document": (ONE, [1]),
    "a document over several lines": (PRETTY, [1]),
    "a byte order mark": (BOM + ONE, [1]),
    "a byte order mark and lines": (BOM + ONE + b"\n" + TWO, [1, 2]),
    "lines": (ONE + b"\n" + TWO + b"\n", [1, 2]),
    "lines of DOS": (ONE + b"\r\n" + TWO + b"\r\n\r\n", [1, 2]),
    "blank lines": (b"\n\n" + ONE + b"\n  \n\n" + TWO, [1, 2]),
    "an array": (b"[" + ONE + b"," + TWO + b"]", [1, 2]),
    "an array over several lines": (json.dumps([{"n": 1}, {"n": 2}], indent=4).encode(), [1, 2]),
    "an array on every line": (b"[" + ONE + b"]\n[" + TWO + b", " + ONE + b"]", [1, 1, 2]),
    "an array after a byte order mark": (BOM + b" [" + ONE + b" , " + TWO + b" ] ", [1, 2]),
    "documents without blanks between them": (ONE + TWO + ONE, [1, 1, 2]),
    "documents over several lines": (PRETTY + b"\n" + PRETTY, [1, 1]),
    "documents without blanks on some lines": (ONE + b"\n" + TWO + ONE + b"\n", [1, 1, 2]),
    "a sequence of RFC 7464": (b"\x1e" + ONE + b"\n\x1e" + TWO + b"\n", [1, 2]),
}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson", "a.log", "a.geojson", "A.JSON", "a.ldjson"])
def test_the_kind_of_a_file_is_told_by_its_bytes(tmp_path, name):
    for number, (what, (body, expected)) in enumerate(GOOD.items()):
        for packed, ending in ((body, ""), (gzip.compress(body), ".gz"), (gzip.compress(body), "")):
            found = run(tmp_path / f"{number}-{ending}-{packed is body}", {name + ending: packed})
            assert found == (expected, []), (what, ending)


BAD = {
    "torn": (PRETTY[:-5], "a.json", [], [(0, "json")]),
    "trailing text": (ONE + b" trailing", "a.json", [], [(0, "json")]),
    "trailing text on a line": (ONE + b"\n" + TWO + b" x\n" + ONE, "a.json", [1, 1], [(9, "json")]),
    "a torn first line": (b'y": 5}\n' + ONE + b"\n" + TWO, "a.log", [1, 2], [(0, "json")]),
    "a torn last line": (ONE + b"\n" + TWO + b'\n{"n": ', "a.json", [1, 2], [(18, "json")]),
    "a torn array": (b"[" + ONE + b"," + TWO, "a.json", [], [(0, "json")]),
    "an array without a comma": (b"[" + ONE + b" " + TWO + b"]", "a.json", [1], [(10, "json")]),
    "a comma too many": (b"[" + ONE + b",]", "a.json", [1], [(10, "json")]),
    "a bad element": (b'[{"n": 1}, {"n": tru}, {"n": 2}]', "a.json", [1, 2], [(11, "json")]),
    "elements that are no objects": (b"[1, " + ONE + b", []]", "a.json", [1], [(1, "type"), (14, "type")]),
    "plain text": (b"started\nstopped {}\n", "a.log", [], [(0, "json")]),
    "plain text with some objects": (b"started\n" * 9 + ONE, "a.log", [], [(0, "json")]),
    "an empty document": (b"", "a.json", [], [(0, "json")]),
    "a torn document with a line that is an object": (b'{\n  "a":\n   {"n": 1}\n', "a.json", [], [(0, "json")]),
    "UTF-16": ('{"n": 1}'.encode("utf-16"), "a.json", [], [(0, "json")]),
    "packed and torn": (gzip.compress(ONE * 100)[:-10], "a.json", [], [(0, "packing")]),
    "not packed": (b"text", "a.json.gz", [], [(0, "packing")]),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_bad_is_refused_where_it_begins(tmp_path, what):
    body, name, rows, problems = BAD[what]
    found = run(tmp_path / "a", {name: body, "z.json": b'{"n": 99}'})
    assert found == ([*rows, 99], problems)


def test_files_without_records_are_taken_and_refuse_nothing(tmp_path):
    assert run(tmp_path / "a", {"a.jsonl": b"", "b.log": b" \n", "c.json": b"[]", "z.json": ONE}) == ([1], [])


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(ONE) + bytes(700),
        gzip.compress(ONE + b"\n") + gzip.compress(TWO),
        gzip.compress(ONE + b"\n") + bytes(5) + gzip.compress(TWO) + bytes(3),
        gzip.compress(gzip.compress(ONE)),
        pa.Codec("zstd").compress(ONE, asbytes=True),
    ],
    ids=["zeros after it", "two members", "zeros between members", "twice", "zstd"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.json", "a.jsonl.gz"])
def test_packed_files_are_read_as_gzip_reads_them(tmp_path, packed, name):
    rows, problems = run(tmp_path / "a", {name: packed})
    assert (set(rows) <= {1, 2}, 1 in rows, problems) == (True, True, [])


def test_a_file_that_was_unpacked_and_kept_its_name_is_read(tmp_path):
    assert run(tmp_path / "a", {"a.json.gz": ONE, "b.jsonl.zst": b" " + TWO}) == ([1, 2], [])


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        ("a.json", ONE + b"\n" + TWO, True),
        ("a.json", BOM + ONE + b"\r\n" + TWO + b"\r\n", True),
        ("a.json", b"[" + ONE + b"]\n[" + TWO + b"]\n", True),
        ("a.json", ONE[1:] + b"\n" + ONE + b"\n" + TWO, True),  # rotated in the middle of a line
        ("a.json", ONE + b"\n", False),
        ("a.json", PRETTY + b"\n" + PRETTY, False),
        ("a.json", b"[\n" + ONE + b",\n" + TWO + b"\n]\n", False),
        ("a.jsonl", b"", True),
        ("a.JSONL.gz", ONE, True),
        ("a.log", ONE, True),
        ("a.log", b"started\nstopped\n", False),
        ("a.jsonl", b"[" + ONE + b"]", False),
        ("a.jsonl", PRETTY, False),
    ],
)
def test_files_to_which_lines_may_be_added_are_told_by_their_bytes(name, body, expected):
    assert parquet().holds_lines(name, body) == expected


def test_records_before_a_part_that_was_read_are_left_out():
    def split(body, begin):
        return [record.strip() for _, record, _ in parquet().split_records("a.json", body, [], begin)]

    assert split(ONE + b"\n" + TWO + b"\n", len(ONE) + 1) == [TWO]
    assert split(ONE + b"\n" + TWO + b"\n", len(ONE)) == [TWO]
    assert split(b"[" + ONE + b",\n" + TWO + b"]", len(ONE) + 3) == [ONE, TWO]  # the array was not whole then
    assert split(PRETTY + b"\n" + PRETTY, len(PRETTY)) == [PRETTY]
    assert split(PRETTY, len(PRETTY)) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(alphabet='a"\\{}[],:\n\té', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('"\\{a', max_size=2), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=3), min_size=1, max_size=4),
    st.sampled_from(["array", "lines", "joined", "pretty"]),
    st.sampled_from([b"", BOM, b"\n", b" \r\n"]),
)
def test_every_record_comes_back_as_it_was(records, form, before):
    indent = 1 if form == "pretty" else None
    texts = [json.dumps(record, ensure_ascii=False, indent=indent) for record in records]
    text = {"array": f"[{', '.join(texts)}]", "lines": "\n".join(texts), "joined": "".join(texts)}.get(form)
    body = before + (text if text is not None else "\n".join(texts)).encode()
    found = parquet().split_records("a.json", body, [])
    assert [json.loads(record) for _, record, _ in found] == records
    assert all(body[offset : offset + len(record)].strip() == record.strip() for offset, record, _ in found)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=12) | st.text(alphabet='{}[]",:\\ 1an\n', max_size=16).map(str.encode),
    st.sampled_from([[], ["a"]]),
)
@example(b"[}", [])
@example(b'[{"a": 1}}', [])
def test_whatever_the_bytes_are_nothing_is_left_out(body, path):
    """Every byte that is no blank, comma or bracket around records is in one of them."""
    found = parquet().split_records("a.json", body, path)
    assert all(0 <= offset <= len(body) for offset, _, _ in found)
    if not path and body.strip(b" \t\n\v\f\r\x1e"):
        rest = bytearray(body)
        for offset, record, _ in found:
            rest[offset : offset + len(record)] = b" " * len(record)
        assert not bytes(rest).strip(b" \t\n\v\f\r\x1e[],\xef\xbb\xbf")
