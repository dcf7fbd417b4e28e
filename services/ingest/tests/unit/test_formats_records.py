"""Log lines and events. Values and reasons: golden vectors."""

from __future__ import annotations

import orjson
import pytest

from outrider.contract.reasons import Reason, Refused
from outrider_ingest.formats import decode_event, decode_log
from outrider_ingest.formats.records import LEVELS


@pytest.mark.parametrize("number", range(8))
def test_level_number_is_its_place_in_rfc_5424(number: int) -> None:
    decoded = decode_log(orjson.dumps({"level": number, "msg": "x"}))
    assert decoded.records[0][2] == LEVELS[number]


@pytest.mark.parametrize("level", [-1, 8, 3.0, True, "", "loud", [], {}, "x" * 10_000])
def test_level_that_is_none_is_refused(level: object) -> None:
    decoded = decode_log(orjson.dumps({"level": level, "msg": "x"}))
    assert ([reason for reason, _ in decoded.refused], decoded.records) == ([Reason.BAD_VALUE], [])


def test_fields_are_kept_as_sent_without_what_became_columns() -> None:
    decoded = decode_log(
        b'{"ts": 5, "up_ms": 4, "level": "info", "msg": "m", "a": null, "b": {"c": [1]}, "message": "n"}'
    )
    assert decoded.records == [(5000, 4, "info", "m", {"a": None, "b": {"c": [1]}, "message": "n"})]


def test_event_text_may_be_absent_or_something_else() -> None:
    decoded = decode_event(b'[{"type": "a"}, {"type": "b", "msg": 5}, {"type": "c", "text": "t"}]')
    assert [(label, text, fields) for _, _, label, text, fields in decoded.records] == [
        ("a", "", {}),
        ("b", "", {"msg": 5}),
        ("c", "t", {}),
    ]


def test_long_log_text_is_kept() -> None:
    decoded = decode_log(orjson.dumps({"msg": "x" * 60_000}))
    assert len(decoded.records[0][3]) == 60_000


def test_lines_refuse_what_is_not_an_object() -> None:
    decoded = decode_log(b'{"msg": "a"}\n[{"msg": "b"}]\nnull\n{"msg": "c"}')
    assert [text for _, _, _, text, _ in decoded.records] == ["a", "c"]
    assert [reason for reason, _ in decoded.refused] == [Reason.UNKNOWN_FORMAT] * 2


def test_lines_beyond_the_limit_are_refused_with_their_number() -> None:
    payload = b'{"boot":1,"seq":2,"msg":""}\n' + b"{}\n" * 5_000
    decoded = decode_log(payload)
    assert (decoded.boot, decoded.seq, decoded.records) == (1, 2, [])
    assert [reason for reason, _ in decoded.refused] == [Reason.TOO_MANY_SAMPLES]


def test_bad_lines_count_too() -> None:
    decoded = decode_log(b'{"boot":1,"seq":2,"msg":""}\n' + b"oops\n" * 5_000)
    assert (decoded.boot, decoded.seq, decoded.records) == (1, 2, [])
    assert [reason for reason, _ in decoded.refused] == [Reason.TOO_MANY_SAMPLES]


def test_what_stands_beside_records_is_told() -> None:
    decoded = decode_log(b'{"app": "x", "host": null, "records": [{"msg": "a"}]}')
    assert [text for _, _, _, text, _ in decoded.records] == ["a"]
    assert [reason for reason, _ in decoded.refused] == [Reason.UNKNOWN_FORMAT]
    assert "'app'" in decoded.refused[0][1]


def test_bad_numbering_of_the_first_line_refuses_the_message() -> None:
    with pytest.raises(Refused) as caught:
        decode_log(b'{"boot": 0, "seq": 1, "msg": "a"}\n{"msg": "b"}')
    assert caught.value.reason is Reason.BAD_VALUE
