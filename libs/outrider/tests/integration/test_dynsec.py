"""The control client against real brokers: what is planned is what the plugin then holds, on both series."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider.access import accounts, bootstrap, rights
from outrider.access.accounts import Client, Role, State
from outrider.access.dynsec import Dynsec, Refused
from outrider.runtime.errors import Transient
from outrider.servers import Mosquitto, ServerError, mosquitto
from outrider.testing.fixtures import unavailable
from outrider.testing.services import connected

pytestmark = pytest.mark.servers


@pytest.fixture(params=["2.1", "2.0"])
def broker(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Mosquitto]:
    try:
        program = mosquitto.find(series=request.param)
    except ServerError as error:
        if request.param == "2.0":
            pytest.skip(f"no Mosquitto 2.0 can be had here: {error}")
        unavailable("Mosquitto", error)
    with Mosquitto(tmp_path / "mosquitto", program=program) as running:
        yield running


def services(broker: Mosquitto) -> State:
    """What the bootstrap put there."""
    found = bootstrap.service_accounts(broker.keys)
    return State.of(
        [Client(a.username, a.fingerprint, roles=frozenset({a.username}), password=a.password) for a in found],
        [Role.of(account.username, account.acls) for account in found],
    )


async def test_bootstrapped_broker_needs_nothing(broker: Mosquitto) -> None:
    dynsec = await Dynsec.open(broker.url_of("registry"))
    assert dynsec.knows_user_patterns == broker.version.startswith("2.1")
    assert accounts.plan(services(broker), await dynsec.read()) == []
    await dynsec.close()


async def test_plan_is_carried_out_and_read_back(broker: Mosquitto) -> None:
    dynsec = await Dynsec.open(broker.url_of("registry"))
    desired = services(broker)
    for role in ("tenant:acme", "device", "claim:7f3a9c", "viewer:*"):
        desired.roles[role] = Role.of(role, rights.role(role))
    desired.roles["gateway:gate-1"] = Role.of("gateway:gate-1", rights.gateway_role([("acme", "n-1"), ("acme", "n-2")]))
    for number in range(450):  # more than a page of roles, more than two batches of commands
        name = f"van-{number:03d}"
        desired.clients[name] = Client(
            name,
            f"1.k1.{number}",
            name,
            frozenset({"tenant:acme", "device"}),
            number % 50 == 0,
            password=f"password-{number}",
        )
    desired.clients["gate-1"] = Client("gate-1", "certificate", None, frozenset({"tenant:acme", "gateway:gate-1"}))
    for number in range(25):
        desired.roles[f"claim:0000{number:02d}"] = Role.of("claim", rights.claim_role(f"0000{number:02d}"))
    desired.roles = {name: Role(name, role.rules) for name, role in desired.roles.items()}

    assert await dynsec.apply(accounts.plan(desired, await dynsec.read())) == []
    assert await dynsec.read() == desired

    # Every kind of change at once, strangers and a way to allow everything included.
    strange = [
        {"command": "createGroup", "groupname": "friends"},
        {
            "command": "createRole",
            "rolename": "admin",
            "acls": [{"acltype": "publishClientSend", "topic": "#", "allow": True}],
        },
        {"command": "createClient", "username": "democlient", "password": "x", "roles": [{"rolename": "admin"}]},
        {"command": "setDefaultACLAccess", "acls": [{"acltype": "subscribe", "allow": True}]},
        {"command": "deleteClient", "username": "van-007"},
        {"command": "disableClient", "username": "van-001"},
        {"command": "enableClient", "username": "van-000"},
        {"command": "modifyClient", "username": "van-002", "clientid": "", "roles": [], "textname": "another"},
        {"command": "modifyRole", "rolename": "tenant:acme", "acls": []},
        {"command": "deleteRole", "rolename": "viewer:*"},
    ]
    assert await dynsec.apply(strange) == []
    assert len(accounts.plan(desired, await dynsec.read())) == len(strange)
    assert await dynsec.apply(accounts.plan(desired, await dynsec.read())) == []
    assert await dynsec.read() == desired
    await dynsec.close()

    async with connected(f"mqtt://van-002:password-2@127.0.0.1:{broker.device_port}", "any"):
        pass
    with pytest.raises(Transient):
        async with connected(f"mqtt://van-000:password-0@127.0.0.1:{broker.device_port}", "any"):
            pass


async def test_refusals_name_the_command_and_the_rest_is_carried_out(broker: Mosquitto) -> None:
    dynsec = await Dynsec.open(broker.url_of("registry"))
    refused = await dynsec.apply(
        [
            {"command": "deleteClient", "username": "nobody"},
            {"command": "createClient", "username": "van-1", "password": "p"},
            {"command": "createClient", "username": "van-2", "password": "p", "roles": [{"rolename": "nothing"}]},
        ]
    )
    assert [(refusal.command["username"], type(refusal)) for refusal in refused] == [
        ("nobody", Refused),
        ("van-2", Refused),
    ]
    assert "deleteClient nobody" in str(refused[0])
    assert "van-1" in (await dynsec.read()).clients
    await dynsec.close()


async def test_who_is_connected(broker: Mosquitto) -> None:
    dynsec = await Dynsec.open(broker.url_of("registry"))
    async with connected(broker.url_of("tools"), "somebody"):
        found = await dynsec.connected(["svc:tools", "svc:ingest", "nobody"])
    assert found == ({"svc:tools"} if dynsec.knows_user_patterns else set()), "2.0 does not tell"
    await dynsec.close()


async def test_an_account_without_the_right_is_told_so(broker: Mosquitto) -> None:
    with pytest.raises(Transient, match=r"not authorized|did not answer"):
        await Dynsec.open(broker.url_of("ingest"))


async def test_a_broker_that_dies_ends_the_question(broker: Mosquitto) -> None:
    dynsec = await Dynsec.open(broker.url_of("registry"))
    broker.kill()
    with pytest.raises(Transient):
        await dynsec.read()
