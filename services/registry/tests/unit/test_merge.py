"""Merge patches, configurations by priority, and reports in any order, as properties and tables."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider_registry import merge
from outrider_registry.merge import Configuration, Key, NotAllowed, same

KEYS = st.sampled_from("abc")
VALUES = st.one_of(
    st.integers(0, 3), st.booleans(), st.sampled_from(["", "x"]), st.lists(st.integers(0, 2), max_size=2)
)
WITH_NULLS = st.recursive(
    st.one_of(VALUES, st.none()), lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
DOCUMENTS = st.dictionaries(
    KEYS,
    st.recursive(VALUES, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=8),
    max_size=3,
)
PATCHES = st.dictionaries(KEYS, WITH_NULLS, max_size=3)


@pytest.mark.parametrize(  # RFC 7396, appendix A
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_as_in_the_rfc(target: Any, patch: Any, result: Any) -> None:
    assert merge.merge_patch(target, patch) == result


@given(DOCUMENTS, PATCHES)
def test_a_patch_twice_is_as_once_and_leaves_its_arguments_alone(document: dict[str, Any], patch: Any) -> None:
    before = repr((document, patch))
    once = merge.merge_patch(document, patch)
    assert same(merge.merge_patch(once, patch), once)
    assert repr((document, patch)) == before


@given(DOCUMENTS, PATCHES, PATCHES)
def test_patches_of_different_keys_make_one_in_any_order(document: dict[str, Any], one: Any, two: Any) -> None:
    two = {key: value for key, value in two.items() if key not in one}
    together = merge.merge_patch(document, one | two)
    assert same(merge.merge_patch(merge.merge_patch(document, one), two), together)
    assert same(merge.merge_patch(merge.merge_patch(document, two), one), together)


@given(DOCUMENTS, DOCUMENTS)
def test_a_delta_is_empty_exactly_when_the_desired_values_are_reported(desired: Any, reported: Any) -> None:
    difference = merge.delta(desired, reported)
    assert merge.delta(desired, merge.merge_patch(reported, desired)) == {}
    assert (difference == {}) == same(merge.merge_patch(reported, desired), reported)


# ------------------------------------------------------------------------------------------------ reports
def reported(patches: list[tuple[int, Any]]) -> dict[str, Any]:
    stamps: dict[str, Any] = {}
    for version, patch in patches:
        stamps = merge.report(stamps, version, patch)
    return merge.state_of(stamps)


@given(st.lists(PATCHES, max_size=5), st.randoms(use_true_random=False))
def test_reports_of_versions_arrive_in_any_order_and_make_one_state(patches: list[Any], order: random.Random) -> None:
    expected: Any = {}
    for patch in patches:
        expected = merge.merge_patch(expected, patch)
    numbered = list(enumerate(patches, 1))
    order.shuffle(numbered)
    assert same(reported(numbered), expected)


@given(st.lists(PATCHES, max_size=4))
def test_reports_of_one_version_count_in_their_order_also_when_they_come_again(patches: list[Any]) -> None:
    expected: Any = {}
    for patch in patches:
        expected = merge.merge_patch(expected, patch)
    one_version = [(7, patch) for patch in patches]
    assert same(reported(one_version), expected)
    assert same(reported([*one_version, *one_version]), expected)


def test_an_older_report_never_brings_back_what_a_newer_one_deleted() -> None:
    assert reported([(2, {"a": None}), (1, {"a": 1, "b": 2})]) == {"b": 2}
    assert reported([(2, {"a": 5}), (1, {"a": {"x": 1}})]) == {"a": 5}
    assert reported([(1, {"a": {"x": 1}}), (3, {"a": {"y": 1}}), (2, {"a": 5})]) == {"a": {"y": 1}}


def test_traces_of_deleted_values_are_bounded_and_nothing_comes_back() -> None:
    stamps: dict[str, Any] = {}
    for version in range(1, merge.STAMPS_MAX + 10):
        stamps = merge.report(stamps, version, {f"k{version}": 1, f"k{version - 1}": None})
    assert len(stamps["c"]) < merge.STAMPS_MAX
    assert merge.state_of(merge.report(stamps, 1, {"k1": 1})) == merge.state_of(stamps)
    newest = merge.STAMPS_MAX + 9
    assert merge.state_of(stamps) == {f"k{newest}": 1}


# ------------------------------------------------------------------------------------------------ configurations
def configuration(
    name: str, state: Any, applies_to: Any = "all", selector: str = "", priority: int = 0
) -> Configuration:
    return Configuration(name, applies_to, selector, priority, state)


@given(st.permutations(range(6)))
def test_priority_wins_then_tag_over_tier_over_type_over_all_then_the_name(order: list[int]) -> None:
    layers = [
        configuration("z", {"a": 0, "b": 0, "c": 0, "d": 0, "e": 0, "f": 0}),
        configuration("y", {"b": 1, "c": 1, "d": 1, "e": 1, "f": 1}, "type", "van"),
        configuration("x", {"c": 2, "d": 2, "e": 2, "f": 2}, "tier", "pi"),
        configuration("v", {"d": 3, "e": 3, "f": 3}, "tag", "cold"),
        configuration("w", {"e": 4, "f": 4}, "tag", "cold"),
        configuration("a", {"f": 5}, "all", "", 1),
    ]
    state, sources = merge.merged([layers[i] for i in order], {"a": 9})
    assert state == {"a": 9, "b": 1, "c": 2, "d": 3, "e": 4, "f": 5}
    assert sources == {"a": "device", "b": "y", "c": "x", "d": "v", "e": "w", "f": "a"}


@given(st.lists(DOCUMENTS, max_size=4), DOCUMENTS, st.sets(st.sampled_from(["t", "u"])))
def test_the_merger_gives_what_merging_each_device_alone_gives(
    states: list[Any], overrides: Any, tags: set[str]
) -> None:
    kinds: list[tuple[Any, str]] = [("all", ""), ("tag", "t"), ("type", "van"), ("tag", "u")]
    layers = [configuration(f"c{i}", s, *kinds[i], priority=i % 2) for i, s in enumerate(states)]
    merger = merge.Merger(layers)
    alone, _ = merge.merged([c for c in layers if c.applies("van", "pi", tags)], overrides)
    for _ in range(2):
        assert same(merger.desired("van", "pi", tags, overrides), alone)


# ------------------------------------------------------------------------------------------------ what is allowed
INTERVAL = Key("interval_s", "integer", 1, 3600, None, "s")


@pytest.mark.parametrize("value", [1, 3600, 30.0])
def test_a_typed_key_takes_what_it_allows(value: Any) -> None:
    INTERVAL.check(value)


@pytest.mark.parametrize("value", [0, 3601, 1.5, "30", True, None, [], {}])
def test_a_refusal_names_key_value_and_what_is_allowed(value: Any) -> None:
    with pytest.raises(NotAllowed) as error:
        INTERVAL.check(value)
    text = str(error.value)
    assert text.startswith("interval_s = ")
    assert "integer 1 … 3600 s" in text


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        (Key("x", "number", minimum=0.5), 0.5, 0.4),
        (Key("x", "boolean"), True, 1),
        (Key("x", "string", 1, 3), "abc", "abcd"),
        (Key("x", "string", choices=["eco", "fast"]), "eco", "slow"),
        (Key("x", "integer", choices=[1, 2]), 2, 3),
        (Key("x", "integer", choices=[1]), 1, True),
        (Key("x", "json", choices=[{"a": 1}]), {"a": 1}, {"a": 2}),
    ],
)
def test_types_bounds_and_choices(key: Key, good: Any, bad: Any) -> None:
    key.check(good)
    with pytest.raises(NotAllowed, match="x = "):
        key.check(bad)


def test_nulls_pass_typed_keys_because_they_delete() -> None:
    merge.check_keys({"interval_s": None, "other": "anything"}, {"interval_s": INTERVAL})


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({"a": "x" * 8200}, "bytes"),
        ({"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {}}}}}}}}}, "levels"),
        ({"a": {"b": None}}, "null"),
        ({"a": float("nan")}, "number"),
        ({"a": [float("inf")]}, "number"),
        ({"a": "x\0y"}, "stored"),
        ({"a\ud800": 1}, "stored"),
    ],
)
def test_what_no_device_may_be_sent(state: Any, why: str) -> None:
    with pytest.raises(NotAllowed, match=why):
        merge.check_desired(state, "It")


def test_eight_levels_and_eight_kilobytes_are_allowed() -> None:
    state: Any = {"a": "x"}
    for _ in range(7):
        state = {"a": state}
    merge.check_desired(state, "It")
    merge.check_desired({"a": "x" * (merge.DESIRED_MAX_BYTES - 8)}, "It")
