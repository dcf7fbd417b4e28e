"""Who may touch which topic, rendered from the wire contract as roles of Mosquitto's dynamic-security plugin. Pure.

Lists of what is allowed; all four default accesses deny. Only Mosquitto 2.1 knows `%u` in a role: before, what devices may
do stands in a static `acl_file`, which the broker asks when the plugin has no answer. It grants every subscription (what
is delivered is checked message by message), so roles that it must not widen end with denials of everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from outrider.contract import topics
from outrider.contract.topics import Topic

Kind = Literal["publishClientSend", "publishClientReceive", "subscribeLiteral", "subscribePattern"]

USER = "%u"
"""Stands for the user name, as one whole level of a topic."""
DENIED_FIRST, ALLOWED, DENIED_REST = 10, 0, -1
"""Priorities: what is denied although a wider rule allows it, what is allowed, and the end of a closed role."""

DYNSEC = "$CONTROL/dynamic-security/v1"
DYNSEC_RESPONSE = DYNSEC + "/response"
UPTIME = "$SYS/broker/uptime"
PROBES = "outrider/doctor/+"
"""Where `outrider doctor` finds out whether the broker says that nobody listens."""

DEVICE_SENDS: tuple[Topic, ...] = (
    topics.TELEMETRY,
    topics.TELEMETRY_METRIC,
    topics.LOG,
    topics.EVENT,
    topics.STATUS,
    topics.SHADOW_REPORTED,
    topics.COMMAND_RESPONSE,
    topics.JOB_PROGRESS,
    topics.CREDENTIAL_CONFIRM,
)
DEVICE_RECEIVES: tuple[Topic, ...] = (
    topics.ACK,
    topics.SHADOW_DESIRED,
    topics.COMMAND,
    topics.JOB,
    topics.TRIP,
    topics.CREDENTIAL,
)
_NOT_OF_CHILDREN = (topics.CREDENTIAL, topics.CREDENTIAL_CONFIRM)
"""A child that connects itself gets its secrets itself; one that does not has none."""
_RAW = (topics.TELEMETRY.filter() + "/#", topics.LOG.filter(), topics.EVENT.filter())
_BUS = (topics.BUS_SAMPLES, topics.BUS_LOGS, topics.BUS_EVENTS, topics.BUS_TRIPS)
_SECRETS = (topics.CREDENTIAL.filter() + "/#", "fleet/v1/-/#")
"""Topics on which secrets travel; whoever may read many topics is denied these."""


@dataclass(frozen=True, slots=True)
class Acl:
    """One rule of a role: of those that match, the one of the highest priority decides."""

    kind: Kind
    topic: str
    allow: bool
    priority: int


Acls = tuple[Acl, ...]


# ------------------------------------------------------------------------------------------------- devices, claims, people
def tenant_role(tenant: str) -> Acls:
    """Every device of a tenant under its own name (Mosquitto ≥ 2.1). May subscribe all below it, receives what is for it."""
    return (
        *send(topic.filter(tenant=tenant, device=USER) for topic in DEVICE_SENDS),
        *receive(topic.filter(tenant=tenant, device=USER) for topic in DEVICE_RECEIVES),
        *subscribe([topics.DEVICE.format(tenant=tenant, device=USER) + "#"]),
    )


def device_role() -> Acls:
    """Every device on Mosquitto 2.0, where `acl_file` has its rights: a shared subscription would take messages away from
    the services that share it, though none of them would be delivered."""
    return (Acl("subscribePattern", "$share/#", False, DENIED_FIRST),)


def denied_role() -> Acls:
    """A device with a certificate that may nothing any more: its certificate still opens a connection until it is revoked."""
    return _closed()


def gateway_role(children: Iterable[tuple[str, str]]) -> Acls:
    """What a gateway may do for its children (tenant, device), beside its own rights: speak and listen in their place."""
    named = sorted(set(children))
    return (
        *send(
            topic.filter(tenant=tenant, device=device)
            for tenant, device in named
            for topic in DEVICE_SENDS
            if topic not in _NOT_OF_CHILDREN
        ),
        *receive(
            topic.filter(tenant=tenant, device=device)
            for tenant, device in named
            for topic in DEVICE_RECEIVES
            if topic not in _NOT_OF_CHILDREN
        ),
        *subscribe(topics.DEVICE.format(tenant=tenant, device=device) + "#" for tenant, device in named),
    )


def claim_role(claim: str) -> Acls:
    """A device that is being enrolled: its claim, the reply to it, and nothing else."""
    reply = topics.CLAIM_REPLY.name(claim=claim)
    return (
        *send([topics.CLAIM.name(claim=claim)]),
        *receive([reply]),
        Acl("subscribeLiteral", reply, True, ALLOWED),
        *_closed(),
    )


def viewer_role(tenant: str | None) -> Acls:
    """A person who reads one tenant's topics (None: all tenants'). `fleet/#` may be subscribed; secrets never come."""
    return (
        *receive([f"fleet/v1/{tenant}/#" if tenant else "fleet/v1/#"]),
        *subscribe(["fleet/#"]),
        *_without_secrets(),
        *_closed(),
    )


# ------------------------------------------------------------------------------------------------------------- services
def send(filters: Iterable[str]) -> Acls:
    """May publish there, wills and retained messages included."""
    return tuple(Acl("publishClientSend", topic, True, ALLOWED) for topic in filters)


def receive(filters: Iterable[str]) -> Acls:
    """Gets what is published there, if it subscribed."""
    return tuple(Acl("publishClientReceive", topic, True, ALLOWED) for topic in filters)


def subscribe(filters: Iterable[str]) -> Acls:
    """May subscribe there, or anything narrower."""
    return tuple(Acl("subscribePattern", topic, True, ALLOWED) for topic in filters)


def _reads(*filters: str) -> Acls:
    return (*receive(filters), *subscribe(filters))


def _without_secrets() -> Acls:
    return tuple(Acl("publishClientReceive", topic, False, DENIED_FIRST) for topic in _SECRETS)


def _closed(*spared: str) -> Acls:
    """Ends a role: what it does not allow is denied here, and not left to an `acl_file`. `spared`: filters it does allow."""
    return (
        Acl("publishClientSend", "#", False, DENIED_REST),
        Acl("publishClientReceive", "#", False, DENIED_REST),
        *(
            Acl("subscribePattern", topic, False, DENIED_REST)
            for topic in ("#", "$share/#", "$SYS/#", "$CONTROL/#")
            if topic not in spared
        ),
    )


SERVICES: Mapping[str, Acls] = {
    "ingest": (
        *subscribe(topics.share("ingest", raw) for raw in topics.RAW_FILTERS),
        *receive(_RAW),
        *send(bus.filter() for bus in (topics.BUS_SAMPLES, topics.BUS_LOGS, topics.BUS_EVENTS)),
        *send([topics.ACK.filter(), topics.ATTENDED.filter()]),
        *_closed(),
    ),
    "writer-timeseries": (
        *_reads(
            topics.BUS_SAMPLES.filter(), topics.BUS_EVENTS.filter(), topics.ATTENDED.filter(group="writer-timeseries")
        ),
        *send([topics.ACK.filter()]),
        *_closed(),
    ),
    "writer-logs": (
        *_reads(topics.BUS_LOGS.filter(), topics.ATTENDED.filter(group="writer-logs")),
        *send([topics.ACK.filter()]),
        *_closed(),
    ),
    # Reads back what it published retained.
    "trips": (
        *_reads(topics.BUS_SAMPLES.filter(), topics.TRIP.filter(), UPTIME),
        *send([topics.TRIP.filter(), topics.BUS_TRIPS.filter()]),
        *_closed(),
    ),
    # Clears the retained topics of a device that is erased.
    "lifecycle": (
        *receive(["fleet/v1/#"]),
        *subscribe([topics.DEVICE.format(tenant="+", device="+") + "#"]),
        *send(topic.filter() for topic in (*DEVICE_SENDS, topics.SHADOW_DESIRED, topics.TRIP, topics.JOB)),
        *_without_secrets(),
        *_closed(),
    ),
    # Speaks for devices that have no MQTT, and listens for their acks.
    "gateway": (
        *_reads(topics.ACK.filter()),
        *send([topics.TELEMETRY.filter(), topics.LOG.filter(), topics.EVENT.filter()]),
        *_closed(),
    ),
    # Beside its own topics: it replays rejected messages in a device's name, reads back what it published retained, and is
    # the only one that may change who may do what.
    "registry": (
        *_reads(
            topics.STATUS.filter(),
            topics.SHADOW_REPORTED.filter(),
            topics.SHADOW_DESIRED.filter(),
            topics.COMMAND_RESPONSE.filter(),
            topics.CREDENTIAL_CONFIRM.filter(),
            topics.CLAIM.filter(),
            DYNSEC_RESPONSE,
            UPTIME,
        ),
        *send(
            topic.filter()
            for topic in (
                topics.STATUS,
                topics.SHADOW_DESIRED,
                topics.COMMAND,
                topics.CREDENTIAL,
                topics.CLAIM_REPLY,
                topics.TELEMETRY,
                topics.TELEMETRY_METRIC,
                topics.LOG,
                topics.EVENT,
            )
        ),
        *send([DYNSEC]),
        *_closed(),
    ),
    # `outrider tail`, `doctor` with its probe, `rejected replay`.
    "tools": (
        *receive(["fleet/v1/#", "outrider/v1/#", "$SYS/#"]),
        *subscribe(["fleet/#", "outrider/#", "$SYS/#"]),
        *send(
            [
                *(topic.filter() for topic in (topics.TELEMETRY, topics.TELEMETRY_METRIC, topics.LOG, topics.EVENT)),
                PROBES,
            ]
        ),
        *_without_secrets(),
        *_closed("$SYS/#"),
    ),
}
"""Service accounts `svc:{service}` and what each may do: what its code does, no more."""


def service_role(service: str) -> Acls:
    """Rights of a service. One that is not part of the platform may read the bus, and nothing else."""
    known = SERVICES.get(service)
    return known if known is not None else (*_reads(*(bus.filter() for bus in _BUS)), *_closed())


# -------------------------------------------------------------------------------------------- names, and how they are told
TENANT, GATEWAY, CLAIM, VIEWER, SERVICE = "tenant:", "gateway:", "claim:", "viewer:", "svc:"
DEVICE, DENIED = "device", "denied"
EVERY_TENANT = "*"

_OF_NAME: Mapping[str, Callable[[str], Acls]] = {
    TENANT: tenant_role,
    CLAIM: claim_role,
    VIEWER: lambda tenant: viewer_role(None if tenant == EVERY_TENANT else tenant),
    SERVICE: service_role,
}


def role(name: str) -> Acls:
    """Rights of the role of this name: `tenant:acme`, `claim:7f3a…`, `viewer:*`, `svc:ingest`, `device`, `denied`.

    Raises ValueError for a gateway's, whose rights depend on its children, and for a name that is none.
    """
    if name == DEVICE:
        return device_role()
    if name == DENIED:
        return denied_role()
    prefix, colon, rest = name.partition(":")
    render = _OF_NAME.get(prefix + colon)
    if render is None or not rest:
        raise ValueError(f"no role has this name alone: {name!r}")
    return render(rest)


_UNSUBSCRIBES: Mapping[str, str] = {
    "subscribeLiteral": "unsubscribeLiteral",
    "subscribePattern": "unsubscribePattern",
}


def acl_documents(acl: Acl) -> list[dict[str, Any]]:
    """A rule as the plugin takes it. Who may subscribe may unsubscribe, which a slot that is retired does."""
    kinds = [acl.kind, _UNSUBSCRIBES[acl.kind]] if acl.allow and acl.kind in _UNSUBSCRIBES else [acl.kind]
    return [{"acltype": kind, "topic": acl.topic, "priority": acl.priority, "allow": acl.allow} for kind in kinds]


def role_document(name: str, acls: Iterable[Acl]) -> dict[str, Any]:
    """A role as the plugin's file, `createRole` and `modifyRole` take it."""
    return {"rolename": name, "acls": [entry for acl in acls for entry in acl_documents(acl)]}


def acl_file() -> str:
    """`acl_file` of Mosquitto 2.0: a device may act under its own name, in any tenant (who takes its messages checks that)."""
    lines = [
        "# Written from the wire contract by `outrider.access.rights.acl_file()`; edits are lost.",
        "# For Mosquitto 2.0, which knows no %u in roles. Not for 2.1: there each tenant has a role.",
        "# %u is the user name, which on the devices' listener is the client id too. What is not granted is denied.",
        *(f"pattern write {topic.filter(device=USER)}" for topic in DEVICE_SENDS),
        *(f"pattern read {topic.filter(device=USER)}" for topic in DEVICE_RECEIVES),
    ]
    return "\n".join(lines) + "\n"
