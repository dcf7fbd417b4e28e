"""Rights as rules: who may touch which topic of the contract, decided as the broker's plugin decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.access import rights
from outrider.access.rights import Acl, Acls
from outrider.contract import topics

NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True)
TOPICS = [value for value in vars(topics).values() if isinstance(value, topics.Topic)]
ROLES = ["tenant:acme", "claim:7f3a9c", "viewer:acme", "viewer:*", "device", "denied"]
ROLES += [f"svc:{service}" for service in (*rights.SERVICES, "visitor")]
NEVER = [
    "$CONTROL/dynamic-security/v1",
    "$SYS/broker/version",
    "outrider/v1/samples/0",
    "outrider/v1/rejected",
    "other/topic",
]


def matches(topic_filter: str, topic: str) -> bool:
    """MQTT 5.0 section 4.7, with what it says of topics that begin with a dollar."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if levels[0].startswith("$") and wanted[0] in ("#", "+"):
        return False
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels) or wanted[len(levels) :] == ["#"]


def may(acls: Iterable[Acl], kind: str, topic: str, user: str = "") -> bool:
    """What the plugin decides: of the rules that match, the highest priority; denied where none does."""
    found = [acl for acl in acls if acl.kind == kind and matches(acl.topic.replace("%u", user), topic)]
    return max(found, key=lambda acl: acl.priority).allow if found else False


LEVELS = {
    "tenant": "acme",
    "device": "van-1",
    "metric": "rpm",
    "name": "reboot",
    "claim": "7f3a9c",
    "shard": "0",
    "group": "writer-logs",
    "slot": "0",
}


def name(topic: topics.Topic, **values: str) -> str:
    return str(topic.name(**LEVELS | values))


@given(tenant=NAMES, device=NAMES, other=NAMES)
def test_a_device_acts_under_its_own_name_in_its_own_tenant_only(tenant: str, device: str, other: str) -> None:
    role = rights.tenant_role(tenant)
    for topic in TOPICS:
        sends = may(role, "publishClientSend", name(topic, tenant=tenant, device=device), device)
        receives = may(role, "publishClientReceive", name(topic, tenant=tenant, device=device), device)
        assert sends == (topic in rights.DEVICE_SENDS)
        assert receives == (topic in rights.DEVICE_RECEIVES)
        for where in ({"tenant": tenant, "device": other}, {"tenant": other, "device": device}):
            if where != {"tenant": tenant, "device": device}:
                assert not may(role, "publishClientSend", name(topic, **where), device)
                assert not may(role, "publishClientReceive", name(topic, **where), device)


def test_every_device_topic_is_either_sent_or_received_by_a_device() -> None:
    of_devices = [topic for topic in TOPICS if topic.template.startswith(topics.DEVICE)]
    assert sorted(topic.template for topic in (*rights.DEVICE_SENDS, *rights.DEVICE_RECEIVES)) == sorted(
        topic.template for topic in of_devices
    )


@pytest.mark.parametrize("role", [role for role in ROLES if not role.startswith("svc:")])
def test_devices_claims_and_people_touch_nothing_internal(role: str) -> None:
    acls = rights.role(role)
    for topic in NEVER:
        for kind in ("publishClientSend", "publishClientReceive"):
            assert not may(acls, kind, topic, "van-1"), (kind, topic)
    for wanted in (
        "#",
        "$SYS/#",
        "$CONTROL/#",
        "outrider/#",
        "$share/ingest/fleet/v1/+/+/telemetry/#",
        "$share/x/fleet/#",
    ):
        assert not subscribes(acls, wanted, "van-1"), wanted


def subscribes(acls: Acls, wanted: str, user: str = "") -> bool:
    """The plugin matches a wanted filter as if it were a topic, wildcards being levels like others."""
    found = [acl for acl in acls if acl.kind == "subscribePattern" and matches(acl.topic.replace("%u", user), wanted)]
    found += [acl for acl in acls if acl.kind == "subscribeLiteral" and acl.topic == wanted]
    return max(found, key=lambda acl: acl.priority).allow if found else False


def test_a_viewer_reads_its_tenant_but_no_secret_and_writes_nothing() -> None:
    for role, foreign in ((rights.viewer_role("acme"), False), (rights.viewer_role(None), True)):
        assert subscribes(role, "fleet/#")
        for topic in TOPICS:
            secret = topic in (topics.CREDENTIAL, topics.CREDENTIAL_CONFIRM, topics.CLAIM, topics.CLAIM_REPLY)
            internal = topic.template.startswith("outrider")
            assert may(role, "publishClientReceive", name(topic)) == (not secret and not internal), topic.template
            if topic.template.startswith(topics.DEVICE) and not secret:
                assert may(role, "publishClientReceive", name(topic, tenant="other")) == foreign
            assert not may(role, "publishClientSend", name(topic))


def test_a_claim_sees_its_own_reply_only() -> None:
    role = rights.claim_role("7f3a9c")
    for topic in TOPICS:
        assert may(role, "publishClientSend", name(topic)) == (topic is topics.CLAIM)
        assert may(role, "publishClientReceive", name(topic)) == (topic is topics.CLAIM_REPLY)
    assert not may(role, "publishClientSend", name(topics.CLAIM, claim="000000"))
    assert not may(role, "publishClientReceive", name(topics.CLAIM_REPLY, claim="000000"))
    assert subscribes(role, "fleet/v1/-/claim/7f3a9c/reply")
    assert not subscribes(role, "fleet/v1/-/claim/+/reply")
    # what an acl_file with %u would allow it on Mosquitto 2.0
    assert not may(role, "publishClientSend", name(topics.TELEMETRY, device="claim:7f3a9c"))


def test_a_gateway_speaks_for_its_children_but_gets_no_secret_of_theirs() -> None:
    role = rights.gateway_role([("acme", "node-1"), ("acme", "node-2")])
    for topic in TOPICS:
        secret = topic in (topics.CREDENTIAL, topics.CREDENTIAL_CONFIRM)
        for child in ("node-1", "node-2"):
            assert may(role, "publishClientSend", name(topic, device=child)) == (
                topic in rights.DEVICE_SENDS and not secret
            )
            assert may(role, "publishClientReceive", name(topic, device=child)) == (
                topic in rights.DEVICE_RECEIVES and not secret
            )
        assert not may(role, "publishClientSend", name(topic, device="node-3"))
        assert not may(role, "publishClientReceive", name(topic, device="node-3"))
    assert rights.gateway_role([("a", "x"), ("a", "x")]) == rights.gateway_role([("a", "x")])


def test_only_the_registry_may_change_accounts_and_give_secrets() -> None:
    for topic in (
        rights.DYNSEC,
        name(topics.CREDENTIAL),
        name(topics.CLAIM_REPLY),
        name(topics.SHADOW_DESIRED),
        name(topics.COMMAND),
    ):
        senders = {
            service for service in rights.SERVICES if may(rights.service_role(service), "publishClientSend", topic)
        }
        # lifecycle empties what an erased device left retained
        assert senders - ({"lifecycle"} if topic == name(topics.SHADOW_DESIRED) else set()) == {"registry"}, topic
    for topic in (name(topics.CREDENTIAL), name(topics.CLAIM_REPLY)):
        assert not [
            service for service in rights.SERVICES if may(rights.service_role(service), "publishClientReceive", topic)
        ], topic


def test_only_ingest_may_join_the_group_that_takes_what_devices_send() -> None:
    for wanted in (topics.share("ingest", raw) for raw in topics.RAW_FILTERS):
        assert [s for s in rights.SERVICES if subscribes(rights.service_role(s), wanted)] == ["ingest"]


@pytest.mark.parametrize("role", ROLES)
def test_roles_are_short_and_every_rule_is_there_once(role: str) -> None:
    acls = rights.role(role)
    # The plugin keeps a list a kind and goes through it for every message.
    assert max(Counter(acl.kind for acl in acls).values()) < 20
    # It keeps one rule a kind and topic.
    assert len({(acl.kind, acl.topic) for acl in acls}) == len(acls)
    if role.startswith(("tenant:", "claim:", "viewer:")):
        assert len(acls) < 20


@pytest.mark.parametrize("bad", ["gateway:x", "tenant:", "svc:", "nobody", "", "admin:x"])
def test_a_name_that_is_no_role_has_no_rights(bad: str) -> None:
    with pytest.raises(ValueError, match="no role"):
        rights.role(bad)


def test_acl_file_says_of_devices_what_the_tenants_role_says() -> None:
    lines = [line.split() for line in rights.acl_file().splitlines() if not line.startswith("#")]
    rules = {(access, topic) for _, access, topic in lines}
    assert all(word == "pattern" for word, *_ in lines)
    role = rights.tenant_role("+")
    assert rules == {("write", acl.topic) for acl in role if acl.kind == "publishClientSend"} | {
        ("read", acl.topic) for acl in role if acl.kind == "publishClientReceive"
    }


def test_production_acl_file_is_the_rendered_one(repository_root: Path) -> None:
    assert (repository_root / "mosquitto" / "acl").read_text() == rights.acl_file(), (
        "mosquitto/acl differs from the code: outrider broker acl > mosquitto/acl"
    )
