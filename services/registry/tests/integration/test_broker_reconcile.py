"""The broker's accounts follow the database, on both series of Mosquitto: filled, changed, mended (faults 3, 41, 48)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from outrider.access import accounts, rights
from outrider.access.accounts import Role
from outrider.access.keys import verifier
from outrider.access.secrets import device_secret
from outrider.contract import topics
from outrider.runtime.errors import Transient
from outrider.servers import Mosquitto, ServerError, mosquitto
from outrider.testing.fixtures import Database, unavailable
from outrider_registry.testing import KEYS
from outrider_registry.testing.broker import At, Fleet, leading, until

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module", params=["2.1", "2.0"])
def program(request: pytest.FixtureRequest) -> mosquitto.Program:
    try:
        return mosquitto.find(series=request.param)
    except ServerError as error:
        if request.param == "2.0":
            pytest.skip(f"no Mosquitto 2.0 can be had here: {error}")
        unavailable("Mosquitto", error)


@pytest.fixture
def at(tmp_path: Path, program: mosquitto.Program) -> Iterator[At]:
    with Mosquitto(tmp_path / "mosquitto", program=program, keys=KEYS) as server:
        yield At(server)


@pytest.fixture
def fleet(database: Database) -> Fleet:
    fleet = Fleet(database)
    fleet.tenant("acme", "other")
    return fleet


async def test_an_empty_broker_is_filled_and_then_left_alone(at: At, fleet: Fleet, database: Database) -> None:
    fleet.devices("acme", *(f"van-{n}" for n in range(300)))
    async with leading(database, at.server, reconcile_interval_s=0.5) as (_, leader):
        await until(lambda: at.lets_in(at.device_url("van-299")))
        await until(lambda: at.lets_in(at.device_url("van-0")))
        before = at.server.dynsec_file.stat().st_mtime_ns
        device = await at.connect(at.device_url("van-0"))
        compared = _comparisons()
        await until(lambda: _compared_since(compared + 3))
        assert not device.closed.is_set()
        assert at.server.dynsec_file.stat().st_mtime_ns == before
        assert leader.problem() is None
        await device.close()
    state = await at.state()
    assert len([name for name in state.clients if name.startswith("van-")]) == 300
    assert set(state.roles) == {*(n for n in state.clients if n.startswith("svc:")), "denied"} | (
        {"tenant:acme", "tenant:other"} if at.server.version >= "2.1" else {"device"}
    )


def _comparisons() -> float:
    """Whole comparisons so far, by the metric."""
    return REGISTRY.get_sample_value("outrider_registry_broker_reconcile_seconds_count") or 0


async def _compared_since(count: float) -> bool:
    return _comparisons() >= count


async def test_changes_arrive_within_moments(at: At, fleet: Fleet, database: Database) -> None:
    async with leading(database, at.server, reconcile_interval_s=600):
        await until(lambda: _has(at, "denied"))
        fleet.devices("acme", "van-1", "van-2")
        assert await until(lambda: at.lets_in(at.device_url("van-1"))) < 2
        # the next generation, confirmed: the old secret is worth nothing any more
        fleet.rows("UPDATE registry.credential SET state = 'replaced' WHERE device = 'van-1'")
        fleet.rows(
            """INSERT INTO registry.credential (device, generation, tenant, kind, state, key_id, verifier, rotates_at)
               VALUES ('van-1', 2, 'acme', 'secret', 'active', 'k1', '', now())"""
        )
        assert await until(lambda: at.lets_in(at.device_url("van-1", 2))) < 2
        assert not await at.lets_in(at.device_url("van-1", 1))
        # revoked
        fleet.rows("UPDATE registry.credential SET state = 'revoked' WHERE device = 'van-1'")
        await until(lambda: _not(at.lets_in(at.device_url("van-1", 2))))
        # deleted
        assert await at.lets_in(at.device_url("van-2"))
        fleet.rows("DELETE FROM registry.device WHERE id = 'van-2'")
        await until(lambda: _not(at.lets_in(at.device_url("van-2"))))


async def test_a_disabled_device_is_thrown_out_and_presence_knows(at: At, fleet: Fleet, database: Database) -> None:
    fleet.devices("acme", "van-1", "van-2")
    fleet.devices("other", "bus-1")
    topic = topics.STATUS.name(tenant="acme", device="van-1")
    async with leading(database, at.server, reconcile_interval_s=600):
        await until(lambda: at.lets_in(at.device_url("bus-1")))
        await until(lambda: at.lets_in(at.device_url("van-1")))
        first = await at.connect(at.device_url("van-1"), will=(topic, b'{"state":"offline","reason":"will"}', 1, True))
        second, other = await at.connect(at.device_url("van-2")), await at.connect(at.device_url("bus-1"))
        fleet.rows("INSERT INTO registry.presence (device, tenant, state) VALUES ('van-1', 'acme', 'online')")

        fleet.rows("UPDATE registry.device SET status = 'disabled' WHERE id = 'van-1'")
        await asyncio.wait_for(first.closed.wait(), 2)
        assert not await at.lets_in(at.device_url("van-1"))
        await until(lambda: _presence(fleet, "van-1", ("offline", "disabled")))
        assert not second.closed.is_set()

        # a whole tenant
        fleet.rows("UPDATE registry.tenant SET disabled_at = now() WHERE name = 'acme'")
        await asyncio.wait_for(second.closed.wait(), 2)
        assert not other.closed.is_set()
        fleet.rows("UPDATE registry.tenant SET disabled_at = NULL WHERE name = 'acme'")
        await until(lambda: at.lets_in(at.device_url("van-2")))
        assert not await at.lets_in(at.device_url("van-1"))
        fleet.rows("UPDATE registry.device SET status = 'active' WHERE id = 'van-1'")
        await until(lambda: at.lets_in(at.device_url("van-1")))
        await other.close()


async def test_gateways_speak_for_their_children(at: At, fleet: Fleet, database: Database) -> None:
    fleet.devices("acme", "gate-1", "van-1", "van-2")
    async with leading(database, at.server, reconcile_interval_s=600):
        await until(lambda: at.lets_in(at.device_url("gate-1")))
        await until(lambda: at.lets_in(at.device_url("van-1")))
        stays = await at.connect(at.device_url("van-2"))
        fleet.devices("acme", "node-1", gateway="gate-1", secret=False)
        await until(lambda: _may_send(at, "gate-1", "node-1"))
        assert not await _may_send(at, "gate-1", "van-1")
        assert not await _may_send(at, "van-1", "node-1")
        assert not await at.lets_in(at.device_url("node-1"))
        fleet.rows("UPDATE registry.device SET status = 'disabled' WHERE id = 'node-1'")
        await until(lambda: _not(_may_send(at, "gate-1", "node-1")))
        assert "gateway:gate-1" not in (await at.state()).roles
        assert not stays.closed.is_set()
        await stays.close()


async def test_claims_and_people_come_and_go(at: At, fleet: Fleet, database: Database) -> None:
    async with leading(database, at.server, reconcile_interval_s=600):
        await until(lambda: _has(at, "denied"))
        for claim, seconds in (("c0ffee01", 600), ("c0ffee02", 3)):
            fleet.rows(
                """INSERT INTO registry.claim (id, tenant, key_id, expires_at)
                   VALUES (%s, 'acme', 'k1', now() + make_interval(secs => %s))""",
                claim,
                seconds,
            )
        await until(lambda: at.lets_in(at.claim_url("c0ffee01")))
        assert await at.lets_in(at.claim_url("c0ffee02"))
        waiting = await at.connect(at.claim_url("c0ffee02"))
        await asyncio.wait_for(waiting.closed.wait(), 6)  # nobody tells that its time is over
        assert await at.lets_in(at.claim_url("c0ffee01"))
        fleet.rows(
            "UPDATE registry.claim SET state = 'used', client_until = now() + interval '1 minute' WHERE id = 'c0ffee01'"
        )
        fleet.rows("UPDATE registry.claim SET client_until = now() WHERE id = 'c0ffee01'")
        await until(lambda: _not(at.lets_in(at.claim_url("c0ffee01"))))

        (account,) = fleet.rows(
            """INSERT INTO registry.account (tenant, name, role, mqtt_generation, mqtt_key_id)
               VALUES ('acme', 'vera', 'viewer', 1, 'k1') RETURNING id::text"""
        )[0]
        await until(lambda: at.lets_in(at.person_url("vera", account, 1)))
        viewer = await at.connect(at.person_url("vera", account, 1))
        await viewer.subscribe(["fleet/#"])
        fleet.rows("UPDATE registry.account SET disabled_at = now() WHERE name = 'vera'")
        await asyncio.wait_for(viewer.closed.wait(), 2)
        fleet.rows("DELETE FROM registry.account WHERE name = 'vera'")
    state = await at.state()
    assert [name for name in (*state.clients, *state.roles) if name.startswith(("claim:", "user:", "viewer:"))] == []


async def test_a_device_with_a_certificate_needs_no_password_and_is_shut_out_when_disabled(
    at: At, fleet: Fleet, database: Database
) -> None:
    fleet.devices("acme", "van-1", secret=False)
    fleet.rows(
        """INSERT INTO registry.credential (device, generation, tenant, kind, state, key_id, verifier, rotates_at, expires_at)
           VALUES ('van-1', 1, 'acme', 'certificate', 'active', 'ca', '', now(), now() + interval '1 day')"""
    )
    async with leading(database, at.server, reconcile_interval_s=600):
        await until(lambda: _has(at, "van-1", kind="clients"))
        assert (await at.state()).clients["van-1"].roles == {"tenant:acme" if at.server.version >= "2.1" else "device"}
        fleet.rows("UPDATE registry.device SET status = 'disabled' WHERE id = 'van-1'")
        # Its certificate still opens a connection: what it may do there is nothing.
        await until(lambda: _roles_are(at, "van-1", {"denied"}))
        assert (await at.state()).clients["van-1"].disabled


async def test_fault_3_a_lost_file_is_written_again_while_the_broker_runs(
    at: At, fleet: Fleet, database: Database
) -> None:
    fleet.devices("acme", "van-1")
    path = at.server.dynsec_file
    async with leading(database, at.server, dynsec_file=path):
        await until(lambda: at.lets_in(at.device_url("van-1")))
        device = await at.connect(at.device_url("van-1"))
        for damage in (path.unlink, lambda: path.write_bytes(b""), lambda: path.write_bytes(path.read_bytes()[:500])):
            damage()
            await until(lambda: _file_has(path, "van-1"), 15)
        assert not device.closed.is_set()
        await device.close()


async def test_fault_3_a_broker_that_starts_with_nothing_is_filled_again(
    at: At, fleet: Fleet, database: Database
) -> None:
    fleet.devices("acme", *(f"van-{n}" for n in range(50)))
    async with leading(database, at.server, reconcile_interval_s=600, dynsec_file=at.server.dynsec_file) as (_, leader):
        await until(lambda: at.lets_in(at.device_url("van-49")))
        await until(lambda: at.lets_in(at.device_url("van-0")))
        at.server.kill()
        at.server.dynsec_file.write_bytes(b"")
        at.server.start()
        await until(lambda: at.lets_in(at.device_url("van-0")), 20)
        await until(lambda: at.lets_in(at.device_url("van-49")), 20)
        await until(lambda: _healthy(leader))
    assert "democlient" not in (await at.state()).clients


async def test_strangers_and_meddling_are_mended(at: At, fleet: Fleet, database: Database) -> None:
    fleet.devices("acme", "van-1", "van-2")
    async with leading(database, at.server, reconcile_interval_s=0.5, broker_keep_accounts="bridge, exporter"):
        await until(lambda: at.lets_in(at.device_url("van-2")))
        await until(lambda: at.lets_in(at.device_url("van-1")))
        right = await at.state()
        everything = [{"acltype": "publishClientSend", "topic": "#", "allow": True}]
        await at.commands(
            {"command": "createRole", "rolename": "admin", "acls": everything},
            {"command": "createClient", "username": "democlient", "password": "x", "roles": [{"rolename": "admin"}]},
            {"command": "createClient", "username": "svc:evil", "password": "x", "roles": [{"rolename": "admin"}]},
            {"command": "createClient", "username": "bridge", "password": "x"},
            {"command": "createGroup", "groupname": "friends"},
            {"command": "setDefaultACLAccess", "acls": [{"acltype": "publishClientReceive", "allow": True}]},
            {"command": "deleteClient", "username": "van-1"},
            {"command": "modifyClient", "username": "svc:ingest", "roles": [{"rolename": "admin"}]},
            {"command": "modifyRole", "rolename": "svc:tools", "acls": everything},
        )

        async def mended() -> bool:
            now = await at.state()
            now.clients.pop("bridge", None)
            return now == right

        await until(mended)
        assert await at.lets_in(at.device_url("van-1"))
        assert "bridge" in (await at.state()).clients


async def test_fault_41_rights_that_change_throw_out_only_who_holds_them(
    at: At, fleet: Fleet, database: Database
) -> None:
    role = "tenant:acme" if at.server.version >= "2.1" else "device"
    fleet.devices("acme", "van-1")
    fleet.devices("other", "bus-1")
    async with leading(database, at.server, reconcile_interval_s=600):
        await until(lambda: at.lets_in(at.device_url("bus-1")))
        await until(lambda: at.lets_in(at.device_url("van-1")))
    # As an older release left it. From its file, because that is what makes the broker throw holders out.
    narrow = Role.of(role, rights.role(role)[:-1])
    await at.commands(*accounts.change_role(narrow, (await at.state()).roles[role]))
    at.server.stop()
    at.server.start()
    fleet.rows(
        """INSERT INTO registry.presence (device, tenant, state)
           VALUES ('van-1', 'acme', 'online'), ('bus-1', 'other', 'online')"""
    )
    await until(lambda: at.lets_in(at.device_url("van-1")))
    first, other = await at.connect(at.device_url("van-1")), await at.connect(at.device_url("bus-1"))
    async with leading(database, at.server, reconcile_interval_s=600, presence_silence_s=1):
        await until(lambda: _role_is(at, Role.of(role, rights.role(role))))
        if role == "tenant:acme":  # 2.0 lets holders stay: their rights change under them
            await asyncio.wait_for(first.closed.wait(), 2)
            assert not other.closed.is_set()
            # no will was sent; it did not come back
            await until(lambda: _presence(fleet, "van-1", ("offline", "kicked")))
            assert await _presence(fleet, "bus-1", ("online", ""))
    await first.close()
    await other.close()


async def test_fault_48_after_the_database_was_restored_the_broker_follows(
    at: At, fleet: Fleet, database: Database
) -> None:
    fleet.devices("acme", "van-1", "van-2")
    async with leading(database, at.server, reconcile_interval_s=600):
        await until(lambda: at.lets_in(at.device_url("van-2")))
        await until(lambda: at.lets_in(at.device_url("van-1")))
    # Yesterday: van-2 was not there yet, van-1 had not been rotated, van-3 had not been deleted. No trigger tells.
    fleet.rows("ALTER TABLE registry.device DISABLE TRIGGER tell")
    fleet.rows("ALTER TABLE registry.credential DISABLE TRIGGER tell")
    fleet.rows("DELETE FROM registry.device WHERE id = 'van-2'")
    fleet.rows("UPDATE registry.credential SET generation = 7")
    fleet.devices("acme", "van-3")
    async with leading(database, at.server, reconcile_interval_s=600):
        await until(lambda: at.lets_in(at.device_url("van-3")))
        await until(lambda: at.lets_in(at.device_url("van-1", 7)))
        assert not await at.lets_in(at.device_url("van-1", 1))
        assert not await at.lets_in(at.device_url("van-2"))


async def test_a_device_that_connected_just_now_and_is_thrown_out_is_missed(
    at: At, fleet: Fleet, database: Database
) -> None:
    """The broker was asked before who is connected; its secret changes, and it does not come back."""
    fleet.devices("acme", "van-1", "van-2")
    async with leading(database, at.server, reconcile_interval_s=600, presence_silence_s=1):
        await until(lambda: at.lets_in(at.device_url("van-2")))
        await until(lambda: at.lets_in(at.device_url("van-1")))
    async with leading(database, at.server, reconcile_interval_s=600, presence_silence_s=1):
        fleet.devices("acme", "van-3")
        await until(lambda: at.lets_in(at.device_url("van-3")))  # compared, and nobody was connected
        connection = await at.connect(at.device_url("van-1"))
        fleet.rows("INSERT INTO registry.presence (device, tenant, state) VALUES ('van-1', 'acme', 'online')")
        for device in ("van-1", "van-2"):
            fleet.rows("UPDATE registry.credential SET state = 'replaced' WHERE device = %s", device)
            fleet.rows(
                """INSERT INTO registry.credential (device, generation, tenant, kind, state, key_id, verifier, rotates_at)
                   VALUES (%s, 2, 'acme', 'secret', 'active', 'k1', '', now())""",
                device,
            )
        await asyncio.wait_for(connection.closed.wait(), 10)
        await until(lambda: _presence(fleet, "van-1", ("offline", "kicked")))
        assert fleet.rows("SELECT 1 FROM registry.presence WHERE device = 'van-2' AND state <> 'unknown'") == []


async def test_a_gateway_that_gets_a_child_and_stays_connected_is_not_missed(
    at: At, fleet: Fleet, database: Database
) -> None:
    """Whether an edited role disconnects its holders depends on the broker; who is silent and connected is online."""
    fleet.devices("acme", "gw-1", "van-1")
    fleet.devices("acme", "sensor-1", gateway="gw-1", secret=False)
    async with leading(database, at.server, reconcile_interval_s=600, presence_silence_s=1):
        await until(lambda: at.lets_in(at.device_url("gw-1")))
        await until(lambda: at.lets_in(at.device_url("van-1")))
        gateway, van = await at.connect(at.device_url("gw-1")), await at.connect(at.device_url("van-1"))
        fleet.rows(
            "INSERT INTO registry.presence (device, tenant, state) VALUES ('gw-1', 'acme', 'online'), ('van-1', 'acme', 'online')"
        )
        fleet.devices("acme", "sensor-2", gateway="gw-1", secret=False)
        role = Role.of("gateway:gw-1", rights.gateway_role([("acme", "sensor-1"), ("acme", "sensor-2")]))
        await until(lambda: _role_is(at, role))
        fleet.rows("UPDATE registry.credential SET generation = 2 WHERE device = 'van-1'")
        fleet.rows("UPDATE registry.device SET version = version + 1 WHERE id = 'van-1'")
        await asyncio.wait_for(van.closed.wait(), 10)
        await until(lambda: _presence(fleet, "van-1", ("offline", "kicked")))
        expected = ("offline", "kicked") if gateway.closed.is_set() else ("online", "")
        assert await _presence(fleet, "gw-1", expected)
    await gateway.close()


@pytest.mark.parametrize("delivered", [False, True])
async def test_fault_48_no_device_is_locked_out_because_the_database_forgot_its_rotation(
    delivered: bool, at: At, fleet: Fleet, database: Database
) -> None:
    """The broker knows which secret a device has; the restored database does not, or not that it was confirmed."""
    fleet.devices("acme", "van-1", "van-2")
    second = """INSERT INTO registry.credential (device, generation, tenant, kind, state, key_id, verifier, rotates_at)
                VALUES ('van-1', 2, 'acme', 'secret', %s, 'k1', '', now())"""
    fleet.rows("UPDATE registry.credential SET state = 'replaced' WHERE device = 'van-1'")
    fleet.rows(second, "active")
    async with leading(database, at.server, reconcile_interval_s=600):
        await until(lambda: at.lets_in(at.device_url("van-2")))
        await until(lambda: at.lets_in(at.device_url("van-1", 2)))
    fleet.rows("ALTER TABLE registry.credential DISABLE TRIGGER ALL")
    fleet.rows("DELETE FROM registry.credential WHERE device = 'van-1' AND generation = 2")
    fleet.rows("UPDATE registry.credential SET state = 'active' WHERE device = 'van-1'")
    if delivered:
        fleet.rows(second, "delivered")
    # a device without a secret, by its row, and one whose secret was taken from it, stay so
    fleet.rows("UPDATE registry.credential SET state = 'revoked' WHERE device = 'van-2'")
    async with leading(database, at.server, reconcile_interval_s=600):
        await until(lambda: _not(at.lets_in(at.device_url("van-2"))))
        assert await at.lets_in(at.device_url("van-1", 2))
        assert not await at.lets_in(at.device_url("van-1", 1))
    states = fleet.rows("SELECT generation, state FROM registry.credential WHERE device = 'van-1' ORDER BY 1")
    assert states == [(1, "replaced"), (2, "active")]
    known = fleet.rows("SELECT verifier FROM registry.credential WHERE device = 'van-1' AND generation = 2")
    assert known == [(verifier(device_secret(KEYS, "van-1", 2)),)]
    audited = fleet.rows("SELECT object, detail FROM registry.audit WHERE action = 'credential.regain'")
    assert audited == [("device:van-1", {"generation": 2})]


async def test_a_key_that_is_not_at_hand_leaves_the_device_as_it_is(at: At, fleet: Fleet, database: Database) -> None:
    fleet.devices("acme", "van-1", "van-2")
    async with leading(database, at.server, reconcile_interval_s=0.5) as (_, leader):
        await until(lambda: at.lets_in(at.device_url("van-2")))
        await until(lambda: at.lets_in(at.device_url("van-1")))
        fleet.rows("UPDATE registry.credential SET key_id = 'lost' WHERE device = 'van-1'")
        fleet.devices("acme", "van-3")
        await until(lambda: at.lets_in(at.device_url("van-3")))
        assert await at.lets_in(at.device_url("van-1"))
        assert leader.problem() is None


async def test_a_broker_that_refuses_is_a_problem_and_the_rest_is_done(
    at: At, fleet: Fleet, database: Database
) -> None:
    fleet.devices("acme", "van-1")
    async with leading(database, at.server, reconcile_interval_s=600):
        await until(lambda: at.lets_in(at.device_url("van-1")))
        # Made behind the registry's back since it last looked: what it believes to be new is there already.
        await at.commands({"command": "createClient", "username": "van-2", "password": "x"})
        fleet.devices("acme", "van-2", "van-3")
        await until(lambda: at.lets_in(at.device_url("van-3")))
        assert not await at.lets_in(at.device_url("van-2"))
    async with leading(database, at.server, reconcile_interval_s=600):
        await until(lambda: at.lets_in(at.device_url("van-2")))


async def _not(awaitable: object) -> bool:
    return not await awaitable  # type: ignore[misc]


async def _has(at: At, name: str, kind: str = "roles") -> bool:
    return name in getattr(await at.state(), kind)


async def _role_is(at: At, role: Role) -> bool:
    return (await at.state()).roles.get(role.name) == role


async def _roles_are(at: At, device: str, roles: set[str]) -> bool:
    client = (await at.state()).clients.get(device)
    return client is not None and client.roles == roles


async def _presence(fleet: Fleet, device: str, expected: tuple[str, str]) -> bool:
    return fleet.rows("SELECT state, reason FROM registry.presence WHERE device = %s", device) == [expected]


async def _may_send(at: At, user: str, device: str) -> bool:
    connection = await at.connect(at.device_url(user))
    try:
        await connection.publish(topics.LOG.name(tenant="acme", device=device), b"{}")
    except Transient as error:
        return "nobody subscribes" in str(error)
    finally:
        await connection.close()
    return True


async def _file_has(path: Path, username: str) -> bool:
    def names() -> set[str]:
        try:
            return {client["username"] for client in json.loads(path.read_text())["clients"]}
        except (OSError, ValueError):
            return set()

    return username in await asyncio.to_thread(names)


async def _healthy(leader: object) -> bool:
    return leader.problem() is None  # type: ignore[attr-defined]
