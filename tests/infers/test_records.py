import json

import pytest

from infers.records import DEEPEST, RecordError, check_record, parse_record, read_record, write_record


def nested(depth):
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("text", [
    nested(DEEPEST + 2), nested(100_000), '{"a":' * 300 + "1" + "}" * 300, '{"a": NaN}', "[Infinity]", "1e400",
    "-1e400", '"\\ud800"',
    '{"\\udfff": 1}', str(10**30), "1" * 5000,
    '{"a"', "", '"' + "x" * 2**21 + '"', "[" + "0," * 2**20 + "0]",
])  # fmt: skip
def test_what_some_reader_would_not_take_back_is_refused(text):
    with pytest.raises(RecordError):
        parse_record(text)


@pytest.mark.parametrize(
    "text", ['{"a": [1, 2.5, null, true, "é"]}', '"\\ud83d\\ude00"', nested(DEEPEST), "-9223372036854775807"]
)
def test_ordinary_json_is_taken_as_it_is(text):
    assert parse_record(text) == json.loads(text)


def test_a_record_that_was_written_can_always_be_read(tmp_path):
    path = tmp_path / "record.json"
    deep = None
    for _ in range(1000):
        deep = [deep]
    odd = {"nan": float("nan"), "half": "a\ud800b", "big": 10**400, "deep": deep, 7: (1, 2), "path": tmp_path}
    write_record(path, odd)
    found = read_record(path)
    check_record(found)
    assert (found["nan"], found["half"], found["big"], found["7"], found["path"]) == (
        None,
        "a?b",
        None,
        [1, 2],
        str(tmp_path),
    )


def test_numbers_that_are_none_do_not_cost_an_old_file(tmp_path):
    (tmp_path / "old.json").write_text('{"dice": NaN, "far": 1e999, "name": "liver"}')
    assert read_record(tmp_path / "old.json") == {"dice": None, "far": None, "name": "liver"}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"\x00" * 9])
def test_a_broken_file_is_one_kind_of_error(tmp_path, content):
    (tmp_path / "broken.json").write_bytes(content)
    with pytest.raises(RecordError):
        read_record(tmp_path / "broken.json")
