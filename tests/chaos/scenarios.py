"""The named scenarios, by rows of the fault list; each draw takes its victims and times from the seed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tests.chaos.actions import (
    WAYS_TO_LOSE,
    bad_network,
    cut,
    flap,
    freeze,
    half_open,
    kill,
    lose_identities,
    outage,
    reboot,
    reconnect_all,
    restart,
    reuse_boots,
    scale,
    spoil_clocks,
    stop,
    wait,
    wipe_broker,
)
from tests.chaos.database import (
    database_outage,
    deadlock,
    end_in_transaction,
    end_sessions,
    fill_disk,
    freeze_in_copy,
    freeze_in_lease,
    lose_commit_replies,
    read_only,
    serialization_failures,
)
from tests.chaos.timeline import Draw, Scenario, at, every
from tests.chaos.traffic import (
    clone_cards,
    crowd,
    deep_topic,
    flood,
    flood_past_quota,
    limit_queues,
    long_topic,
    poison_bus,
    poison_row,
    stalled_group,
)

SERVICES = ("ingest", "writer-timeseries", "writer-logs", "registry", "trips", "lifecycle")
WRITER = "writer-timeseries"


def kill_broker(random: Random) -> Scenario:
    """Row 1."""
    gap_s = random.uniform(2.5, 4)
    steps = every(gap_s, kill("mosquitto"), first_s=1, last_s=1 + 2 * gap_s)
    return Scenario("kill-broker-under-load", faults=[1], steps=steps)


def wiped_broker(random: Random) -> Scenario:
    """Row 2."""
    steps = [at(random.uniform(1, 3), wipe_broker()), at(random.uniform(5, 7), wipe_broker())]
    return Scenario("broker-forgets-everything", faults=[2], steps=steps)


def lost_identities(random: Random) -> Scenario:
    """Row 3."""
    ways = random.sample(WAYS_TO_LOSE, 2)
    return Scenario(
        "broker-loses-its-identities",
        faults=[3],
        steps=[
            at(random.uniform(1, 2), lose_identities(ways[0], and_kill=True)),
            at(10, lose_identities("deleted", and_kill=False)),
            at(20, lose_identities(ways[1], and_kill=True)),
        ],
    )


def kill_writer(random: Random) -> Scenario:
    """Row 4."""
    writers = [at(first_s + random.uniform(0, 1), kill(WRITER)) for first_s in (0.5, 4, 7.5)]
    return Scenario("kill-writer", faults=[4], steps=[*writers, at(random.uniform(1, 8), kill("writer-logs"))])


def kill_anything(random: Random) -> Scenario:
    """Rows 1, 4 and 11 together: each process and server once in any order, one of them again."""
    victims = [*SERVICES, "mosquitto", "postgres"]
    steps = [at(random.uniform(0.5, 7), kill(victim)) for victim in victims]
    return Scenario("kill-anything", faults=[1, 4, 11], steps=[*steps, at(10, kill(random.choice(victims)))])


def graceful(random: Random) -> Scenario:
    """Row 5."""
    steps = [at(1 + 2.5 * i, restart(service)) for i, service in enumerate(random.sample(SERVICES, 3))]
    return Scenario(
        "graceful-restarts", faults=[5], steps=[*steps, at(9, stop("mosquitto", 1)), at(11, kill("ingest"))]
    )


def scaling(random: Random) -> Scenario:
    """Row 6."""
    service = random.choice(("ingest", WRITER))
    counts = [4, 1, 6, 1]
    steps = [at(0.5 + 4 * i, scale(service, count)) for i, count in enumerate(counts)]
    return Scenario(f"scale-{service}", faults=[6], steps=[*steps, at(10, kill(service))])


def frozen(random: Random) -> Scenario:
    """Row 7: frozen longer than its lease, with another replica to take over; `long_freeze` is the long one."""
    for_s = random.uniform(11, 14)
    name, service, action = random.choice(
        (
            ("freeze-ingest", "ingest", freeze("ingest", for_s)),
            ("freeze-writer-in-copy", WRITER, freeze_in_copy(WRITER, for_s)),
            ("freeze-lease-of-ingest", "ingest", freeze_in_lease("ingest", for_s)),
            ("freeze-lease-of-writer", WRITER, freeze_in_lease(WRITER, for_s)),
        )
    )
    return Scenario(name, faults=[7], scale={service: 2}, steps=[at(random.uniform(1, 3), action)])


def short_queues(random: Random) -> Scenario:
    """Row 8."""
    service = random.choice(("ingest", WRITER))
    return Scenario(f"queue-overflows-of-{service}", faults=[8], steps=[at(0.5, limit_queues(20, 5, service))])


def bad_input(random: Random) -> Scenario:
    """Rows 9, 10 and 46 (the fleet's malformed devices send bombs all the time)."""
    steps = [
        at(0.5, flood(1_001)),
        at(1, flood_past_quota(1_001, room=500)),
        at(1.5, deep_topic(32_000)),
        at(1.7, long_topic(65_535)),
        at(2, poison_bus(5)),
        at(random.uniform(3, 5), poison_row(5_000)),
    ]
    return Scenario("bad-input", faults=[9, 10, 46], steps=steps)


def database_away(random: Random) -> Scenario:
    """Row 11."""
    fault = random.choice((stop("postgres", random.uniform(4, 9)), read_only(random.uniform(4, 8))))
    return Scenario("database-away", faults=[11], steps=[at(1, fault), at(12, kill("postgres"))])


def transactions(random: Random) -> Scenario:
    """Row 11: the database ends transactions of the writer for each reason it may have."""
    return Scenario(
        "transactions-ended",
        faults=[11],
        steps=[
            at(0.5, deadlock(WRITER)),
            at(5, serialization_failures(WRITER, random.randint(3, 6))),
            at(10, end_in_transaction(WRITER)),
            at(11, kill(WRITER)),
        ],
    )


def disk_full(random: Random) -> Scenario:
    """Row 11, the disk."""
    return Scenario("disk-full", faults=[11], steps=[at(1, fill_disk(random.uniform(4, 7)))])


def commit_reply_lost(random: Random) -> Scenario:
    """Row 12."""
    return Scenario(
        "commit-reply-lost",
        faults=[12],
        steps=[
            at(1, lose_commit_replies(WRITER, random.randint(5, 15))),
            at(8, end_sessions(WRITER)),
            at(9, kill(WRITER)),
        ],
    )


def slow_sink(random: Random) -> Scenario:
    """Row 16."""
    return Scenario(
        "stalled-group", faults=[16], steps=[at(0.5, stalled_group(random.uniform(5, 8))), at(4, kill(WRITER))]
    )


def clocks(random: Random) -> Scenario:
    """Row 18."""
    steps = [
        at(2, reuse_boots()),
        at(4.5, reboot(0.3)),
        at(5.5, spoil_clocks(4)),
        at(random.uniform(6, 8.5), kill("ingest")),
        at(7, reboot(0.3)),
    ]
    return Scenario("clocks-and-reboots", faults=[18], steps=steps)


def clones(random: Random) -> Scenario:
    """Row 19."""
    return Scenario("cloned-cards", faults=[19], steps=[at(2, clone_cards(random.randint(3, 6)))])


def everyone_returns(random: Random) -> Scenario:
    """Row 20: the fleet, then a crowd beside it."""
    steps = [at(random.uniform(0.5, 1.5), reconnect_all()), at(3, crowd(1_000))]
    return Scenario("everyone-reconnects", faults=[20], steps=steps)


def network(random: Random) -> Scenario:
    """Row 21, for seconds; `long_flaps` is the long one."""
    hurt = random.choice(("flaps", "silence", "slow"))
    killed = at(random.uniform(2, 7), kill(random.choice((*SERVICES, "mosquitto"))))
    if hurt == "flaps":
        steps = every(1.5, cut(0.7), first_s=0.5, last_s=8)  # faster than any backoff settles
    elif hurt == "silence":
        steps = [at(1, half_open())]
    else:
        steps = [at(0.5, bad_network(7, delay_s=1.0, loss=0.3)), at(8.5, outage(2))]
    return Scenario(f"network-{hurt}", faults=[21], steps=[*steps, killed])


def storm(random: Random) -> Scenario:
    """Everything at once, on two replicas of each."""
    hurts = (
        kill("ingest"),
        kill(WRITER),
        kill("writer-logs"),
        kill("mosquitto"),
        kill("postgres"),
        freeze(WRITER, 3),
        restart("ingest"),
        cut(0.5),
        reboot(0.2),
    )
    steps = [at(random.uniform(0.5, 12), random.choice(hurts)) for _ in range(10)]
    return Scenario("storm", faults=[1, 4, 7, 11, 18, 21], scale={"ingest": 2, WRITER: 2}, steps=steps)


def undisturbed(random: Random) -> Scenario:
    """What a round costs in which nothing happens, to hold the others against."""
    return Scenario("undisturbed", faults=[], steps=[at(0, wait(random.uniform(5, 6)))])


DRAWS: tuple[Draw, ...] = (
    kill_broker,
    wiped_broker,
    lost_identities,
    kill_writer,
    kill_anything,
    graceful,
    scaling,
    frozen,
    short_queues,
    bad_input,
    database_away,
    transactions,
    disk_full,
    commit_reply_lost,
    slow_sink,
    clocks,
    clones,
    everyone_returns,
    network,
    storm,
    undisturbed,
)


@dataclass(frozen=True)
class Sizes:
    """How long the long faults last, and how many they are."""

    freeze_s: float = 60
    outage_s: float = 60
    flaps_s: float = 60
    flood: int = 100_000
    crowd: int = 10_000


USUAL = Sizes()
LONG = Sizes(outage_s=600, flaps_s=600)


def long_faults(sizes: Sizes) -> tuple[Draw, ...]:
    """The scenarios that a full run plays once: the faults at their full length."""

    def long_freeze(random: Random) -> Scenario:
        """Row 7, while other things fail too."""
        others = [at(random.uniform(20, sizes.freeze_s - 5), kill(server)) for server in ("postgres", "mosquitto")]
        return Scenario(
            "long-freeze",
            faults=[7],
            scale={"ingest": 2, WRITER: 2},
            steps=[at(1, freeze_in_copy(WRITER, sizes.freeze_s)), at(2, freeze("ingest", sizes.freeze_s)), *others],
        )

    def long_flood(random: Random) -> Scenario:
        """Row 9."""
        return Scenario("long-flood", faults=[9], steps=[at(0.5, flood(sizes.flood))])

    def long_outage(random: Random) -> Scenario:
        """Row 11."""
        return Scenario("long-database-outage", faults=[11], steps=[at(1, database_outage(sizes.outage_s))])

    def long_flaps(random: Random) -> Scenario:
        """Row 21: flaps, then a network on which everything takes seconds, then silence."""
        after_s = 1 + sizes.flaps_s
        return Scenario(
            "long-flaps",
            faults=[21],
            steps=[
                at(0.5, bad_network(sizes.flaps_s, delay_s=0.1, loss=0.3)),
                at(0.5, flap(sizes.flaps_s, every_s=5)),
                at(random.uniform(20, sizes.flaps_s - 5), kill("ingest")),
                at(after_s + 1, bad_network(12, delay_s=1.0, loss=0.3)),
                at(after_s + 5, half_open()),
            ],
        )

    def large_crowd(random: Random) -> Scenario:
        """Row 20."""
        return Scenario("large-crowd", faults=[20], steps=[at(0.5, crowd(sizes.crowd))])

    return long_freeze, long_flood, long_outage, long_flaps, large_crowd
