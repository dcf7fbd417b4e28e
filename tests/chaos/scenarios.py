"""The named scenarios, by rows of the fault list; each draw takes its victims and times from the seed."""

from __future__ import annotations

from random import Random

from tests.chaos.actions import (
    bad_network,
    clone_cards,
    cut,
    end_sessions,
    fill_disk,
    flood,
    freeze,
    half_open,
    jump_clocks,
    kill,
    limit_queues,
    lose_commit_replies,
    outage,
    poison_bus,
    read_only,
    reboot,
    reconnect_all,
    restart,
    scale,
    stalled_group,
    stop,
    wipe_broker,
)
from tests.chaos.timeline import Draw, Scenario, at, every

SERVICES = ("ingest", "writer-timeseries", "writer-logs")
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
    counts = [4, 1, random.choice((3, 5, 6)), 1]
    steps = [at(0.5 + 4 * i, scale(service, count)) for i, count in enumerate(counts)]
    return Scenario(f"scale-{service}", faults=[6], steps=[*steps, at(10, kill(service))])


def frozen(random: Random) -> Scenario:
    """Row 7: frozen longer than its lease, with another replica to take over."""
    service = random.choice(("ingest", WRITER))
    return Scenario(
        f"freeze-{service}",
        faults=[7],
        scale={service: 2},
        steps=[at(random.uniform(1, 3), freeze(service, random.uniform(10, 14)))],
    )


def short_queues(random: Random) -> Scenario:
    """Row 8."""
    service = random.choice(("ingest", WRITER))
    return Scenario(f"queue-overflows-of-{service}", faults=[8], steps=[at(0.5, limit_queues(20, 5, service))])


def bad_input(random: Random) -> Scenario:
    """Rows 9, 10 and 46 (the fleet's malformed devices send bombs all the time)."""
    return Scenario(
        "bad-input",
        faults=[9, 10, 46],
        steps=[at(0.5, flood(1_001)), at(2, poison_bus(5)), at(random.uniform(3, 5), poison_bus(7))],
    )


def database_away(random: Random) -> Scenario:
    """Row 11."""
    fault = random.choice((stop("postgres", random.uniform(4, 9)), read_only(random.uniform(4, 8))))
    return Scenario("database-away", faults=[11], steps=[at(1, fault), at(12, kill("postgres"))])


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
    by_s = random.choice((-3_600, 180 * 86_400, -1_700_000_000, 2_300_000_000))
    steps = [at(1, jump_clocks(0.5, by_s, 4)), at(2, reboot(0.3)), at(6, reboot(0.3)), at(4, kill("ingest"))]
    return Scenario("clocks-and-reboots", faults=[18], steps=steps)


def clones(random: Random) -> Scenario:
    """Row 19."""
    return Scenario("cloned-cards", faults=[19], steps=[at(2, clone_cards(random.randint(3, 6)))])


def everyone_returns(random: Random) -> Scenario:
    """Row 20, with the devices of this run."""
    return Scenario("everyone-reconnects", faults=[20], steps=every(4, reconnect_all(), first_s=1, last_s=5))


def network(random: Random) -> Scenario:
    """Row 21."""
    hurt = random.choice(("flaps", "silence", "slow"))
    killed = at(random.uniform(2, 7), kill(random.choice((*SERVICES, "mosquitto"))))
    if hurt == "flaps":
        steps = every(1.5, cut(0.7), first_s=0.5, last_s=8)
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


DRAWS: tuple[Draw, ...] = (
    kill_broker,
    wiped_broker,
    kill_writer,
    kill_anything,
    graceful,
    scaling,
    frozen,
    short_queues,
    bad_input,
    database_away,
    disk_full,
    commit_reply_lost,
    slow_sink,
    clocks,
    clones,
    everyone_returns,
    network,
    storm,
)
