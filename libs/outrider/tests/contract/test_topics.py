"""Topic templates: what is published is parsed back and matched by its filter, on CPython and on MicroPython."""

from __future__ import annotations

import ast
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.contract import topics
from outrider.contract.limits import METRIC_MAX_CHARS, NAME_MAX_CHARS

TEMPLATES = [value for value in vars(topics).values() if isinstance(value, topics.Topic)]
PLACEHOLDERS = {
    "tenant": st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
    "device": st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
    "metric": st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,127}", fullmatch=True),
    "name": st.from_regex(r"[a-z_]{1,20}", fullmatch=True),
    "claim": st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True),
    "shard": st.integers(0, 63).map(str),
    "slot": st.integers(0, 63).map(str),
    "group": st.from_regex(r"[a-z][a-z-]{0,30}", fullmatch=True),
}
SOURCE = Path(topics.__file__)


def placeholders(topic: topics.Topic) -> list[str]:
    return [level[1:-1] for level in topic.template.split("/") if level.startswith("{")]


def matches(topic_filter: str, topic: str) -> bool:
    """MQTT 5.0 section 4.7, without `$` topics."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return wanted[index:] == ["#"] and index == len(levels)
    return len(wanted) == len(levels) or wanted[len(levels) :] == ["#"]


@pytest.mark.parametrize("topic", TEMPLATES, ids=lambda topic: topic.template)
@given(data=st.data())
def test_name_parse_and_filter_agree(topic: topics.Topic, data: st.DataObject) -> None:
    values = {name: data.draw(PLACEHOLDERS[name], label=name) for name in placeholders(topic)}
    name = topic.name(**values)
    assert topic.parse(name) == values
    assert matches(topic.filter(), name)
    some = {key: value for key, value in values.items() if data.draw(st.booleans())}
    assert matches(topic.filter(**some), name)
    # No other template takes it for its own: a topic has one meaning.
    assert [other.template for other in TEMPLATES if other.parse(name) is not None] == [topic.template]


@pytest.mark.parametrize("topic", TEMPLATES, ids=lambda topic: topic.template)
@pytest.mark.parametrize("value", ["", "a/b", "+", "#", "a+", "a#", "/"])
def test_name_refuses_what_is_no_level(topic: topics.Topic, value: str) -> None:
    names = placeholders(topic)
    for bad in names:
        values: dict[str, str] = {name: value if name == bad else "x" for name in names}
        with pytest.raises(ValueError, match="not a topic level"):
            topic.name(**values)


@given(st.text(max_size=40), st.text(max_size=10))
def test_parse_takes_any_text(text: str, level: str) -> None:
    for topic in TEMPLATES:
        for candidate in (text, topic.template + "/" + text, topic.template.replace("{device}", level)):
            values = topic.parse(candidate)
            assert values is None or sorted(values) == sorted(placeholders(topic))


def test_parse_refuses_an_empty_level() -> None:
    assert topics.TELEMETRY.parse("fleet/v1//van-1/telemetry") is None
    assert topics.TELEMETRY.parse("fleet/v1/acme//telemetry") is None
    assert topics.TELEMETRY_METRIC.parse("fleet/v1/acme/van-1/telemetry/") is None
    assert topics.TELEMETRY.parse("fleet/v1/acme/van-1/telemetry/") is None


@given(st.data())
def test_raw_filters_take_what_devices_send_to_ingest_and_nothing_else(data: st.DataObject) -> None:
    ours = (topics.TELEMETRY, topics.TELEMETRY_METRIC, topics.LOG, topics.EVENT)
    for topic in TEMPLATES:
        name = topic.name(**{key: data.draw(PLACEHOLDERS[key]) for key in placeholders(topic)})
        assert any(matches(topic_filter, name) for topic_filter in topics.RAW_FILTERS) == (topic in ours)


@given(st.text(max_size=70))
def test_is_name_is_the_contracts_pattern(text: str) -> None:
    allowed = "abcdefghijklmnopqrstuvwxyz0123456789-"
    expected = 1 <= len(text) <= NAME_MAX_CHARS and text[0] != "-" and not set(text) - set(allowed)
    assert topics.is_name(text) == expected


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (topics.is_name, ["a", "0", "van-1", "a" * 63], ["", "-a", "A", "a_b", "a b", "ä", "a" * 64, "a\n", "²"]),
        (
            topics.is_metric,
            ["a", "_", "A9", "n" * METRIC_MAX_CHARS],
            ["", "9a", "a-b", "a.b", "ä", "n" * 129, "a\n", "a²"],
        ),
    ],
)
def test_names(check: object, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not check(text)] == []  # type: ignore[operator]
    assert [text for text in bad if check(text)] == []  # type: ignore[operator]


@given(PLACEHOLDERS["device"] | st.text(st.characters(exclude_categories=["Cs"]), max_size=80), st.integers(1, 64))
def test_shard_of_is_crc_32(device: str, shards: int) -> None:
    assert topics.shard_of(device, shards) == zlib.crc32(device.encode()) % shards


def test_share_is_the_shared_subscription() -> None:
    assert topics.share("ingest", topics.LOG.filter()) == "$share/ingest/fleet/v1/+/+/log"


ALLOWED_NODES = (
    *(ast.Module, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Raise),
    *(ast.Assign, ast.AugAssign, ast.Expr, ast.If, ast.For, ast.IfExp, ast.Continue, ast.Break, ast.Pass),
    *(ast.Call, ast.keyword, ast.Attribute, ast.Subscript, ast.Slice, ast.Name, ast.Constant, ast.Load, ast.Store),
    *(ast.Tuple, ast.List, ast.Dict, ast.GeneratorExp, ast.ListComp, ast.comprehension),
    *(ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.boolop, ast.operator, ast.unaryop, ast.cmpop),
)
# What CPython's str and dict have and MicroPython's, in its smallest build, also does.
ALLOWED_METHODS = {"split", "join", "startswith", "append", "items", "get", "encode", "lower", "upper", "replace"}
ALLOWED_NAMES = {"all", "any", "len", "str", "repr", "zip", "range", "ValueError", "KeyError"}


def test_source_is_in_the_micropython_subset() -> None:
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        assert isinstance(node, ALLOWED_NODES), f"line {getattr(node, 'lineno', '?')}: {type(node).__name__}"
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            assert not node.decorator_list, f"line {node.lineno}: decorator"
        if isinstance(node, ast.FunctionDef):
            assert node.returns is None, f"line {node.lineno}: annotation"
        if isinstance(node, ast.arg):
            assert node.annotation is None, f"line {node.lineno}: annotation"
    defined = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {
        node.args.kwarg.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.args.kwarg is not None
    }
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert used - defined - bound <= ALLOWED_NAMES
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert attributes - defined <= ALLOWED_METHODS | {"template", "_levels"}


@pytest.mark.skipif(shutil.which("micropython") is None, reason="no micropython binary on the path")
def test_micropython_runs_the_same_file() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import topics; "
        "print(topics.ACK.name(tenant='t', device='d'), topics.ACK.parse('fleet/v1/t/d/ack')['device'], "
        "topics.COMMAND.filter(device='d'), topics.shard_of('van-1', 8), topics.is_metric('a9'), topics.is_name('-'))"
    )
    done = subprocess.run(
        ["micropython", "-c", program, str(SOURCE.parent)], capture_output=True, text=True, timeout=20, check=True
    )
    shard = zlib.crc32(b"van-1") % 8
    assert done.stdout.split() == ["fleet/v1/t/d/ack", "d", "fleet/v1/+/d/command/+", str(shard), "True", "False"]
