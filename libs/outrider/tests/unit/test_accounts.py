"""From any state of the broker's plugin to the wanted one: the plan reaches it, in an order the plugin can follow."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from outrider.access import accounts, rights
from outrider.access.accounts import Client, Command, Role, State
from outrider.access.dynsec import BATCH_MAX_BYTES, BATCH_MAX_COMMANDS, fitting
from outrider.access.keys import KeyRing, fingerprint

USERS = st.sampled_from(["van-1", "van-2", "gate-1", "svc:ingest", "democlient", "claim:7f3a9c"])
ROLE_NAMES = st.sampled_from(["tenant:acme", "device", "gateway:gate-1", "admin", "svc:ingest"])
RULES = st.frozensets(
    st.tuples(
        st.sampled_from(["publishClientSend", "subscribePattern"]),
        st.sampled_from(["#", "a/%u"]),
        st.just(0),
        st.booleans(),
    ),
    max_size=3,
)
ROLES = st.dictionaries(ROLE_NAMES, RULES, max_size=4)


@st.composite
def states(draw: st.DrawFn, desired: bool) -> State:
    roles = [Role(name, rules, True if desired else draw(st.booleans())) for name, rules in draw(ROLES).items()]
    names = [role.name for role in roles]
    clients = []
    for username in draw(st.sets(USERS, max_size=5)):
        password = draw(st.sampled_from([None, "one", "two"]))
        clients.append(
            Client(
                username,
                fingerprint=password or "",
                client_id=draw(st.sampled_from([None, username])),
                roles=draw(st.frozensets(st.sampled_from(names), max_size=2)) if names else frozenset(),
                disabled=draw(st.booleans()),
                password=password if desired else None,
            )
        )
    state = State.of(clients, roles)
    if not desired:
        state.groups = draw(st.sets(st.sampled_from(["g", "h"])))
        state.allowed_by_default = draw(st.sets(st.sampled_from(accounts.ACCESSES)))
    return state


def carry_out(state: State, commands: list[Command], passwords: dict[str, str | None]) -> None:
    """The plugin's own rules: what is made must be new, what is used must be there."""
    for command in commands:
        kind, user = command["command"], command.get("username", "")
        if kind == "createRole":
            assert command["rolename"] not in state.roles
        elif kind in ("modifyRole", "deleteRole"):
            assert command["rolename"] in state.roles
        elif kind == "createClient":
            assert user not in state.clients
            passwords[user] = command.get("password")
        elif user:
            assert user in state.clients
            if "password" in command:
                assert command["password"], "an empty password is refused"
                passwords[user] = command["password"]
        if kind == "deleteRole":  # Mosquitto 2.0 dies of it
            assert not [name for name, client in state.clients.items() if command["rolename"] in client.roles]
        for role in command.get("roles", ()):
            assert role["rolename"] in state.roles, "a role must be there before it is given to somebody"
        if kind == "modifyRole" and command.get("allowwildcardsubs"):
            state.roles[command["rolename"]] = replace(state.roles[command["rolename"]], wildcards=True)
        accounts.apply(state, command)


@given(desired=states(desired=True), actual=states(desired=False))
def test_plan_reaches_the_wanted_state_and_is_then_empty(desired: State, actual: State) -> None:
    passwords: dict[str, str | None] = {name: client.fingerprint or None for name, client in actual.clients.items()}
    carry_out(actual, accounts.plan(desired, actual), passwords)
    assert actual == desired
    assert {name: passwords[name] for name in desired.clients} == {
        name: client.password for name, client in desired.clients.items()
    }
    assert accounts.plan(desired, actual) == []


@given(desired=states(desired=True))
def test_an_intact_broker_is_left_alone(desired: State) -> None:
    actual = State.of([replace(client, password=None) for client in desired.clients.values()], desired.roles.values())
    assert accounts.plan(desired, actual) == []


@given(desired=states(desired=True), actual=states(desired=False))
def test_only_what_differs_is_touched(desired: State, actual: State) -> None:
    same_clients = {name for name, client in desired.clients.items() if actual.clients.get(name) == client}
    same_roles = {name for name, role in desired.roles.items() if actual.roles.get(name) == role}
    for command in accounts.plan(desired, actual):
        assert command.get("username") not in same_clients
        assert command.get("rolename") not in same_roles


def test_strangers_go_before_anybody_comes() -> None:
    actual = State.of([Client("democlient", roles=frozenset({"admin"}))], [Role("admin")])
    desired = State.of([Client("van-1", "f", password="p")], [])
    assert [command["command"] for command in accounts.plan(desired, actual)] == [
        "deleteClient",
        "createClient",
        "deleteRole",
    ]


def test_what_the_broker_tells_of_itself_is_read_as_it_was_given() -> None:
    role = Role.of("tenant:acme", rights.tenant_role("acme"))
    assert Role.parse({"rolename": "tenant:acme", "acls": role.acls, "allowwildcardsubs": True}) == role
    told = {
        "username": "van-1",
        "clientid": "van-1",
        "textname": "1.k1.00",
        "roles": [{"rolename": "tenant:acme", "priority": 1}],
    }
    assert Client.parse(told) == Client("van-1", "1.k1.00", "van-1", frozenset({"tenant:acme"}))
    assert Client.parse({**told, "connections": [{"address": "127.0.0.1"}], "disabled": True}).disabled


def test_a_password_is_never_shown() -> None:
    assert "s3cret" not in repr(Client("van-1", password="s3cret"))
    keys = KeyRing({"k1": b"x" * 32})
    secret = keys.secret("mqtt", "van-1", 1)
    assert fingerprint(secret, 1, "k1").startswith("1.k1.")
    assert secret[:8] not in fingerprint(secret, 1, "k1")
    assert fingerprint(secret, 1, "k1") != fingerprint(secret[:-1] + "_", 1, "k1")


@given(sizes=st.lists(st.integers(0, BATCH_MAX_BYTES // 2), max_size=20))
def test_batches_keep_the_order_and_the_limits(sizes: list[int]) -> None:
    commands: list[Command] = [
        {"command": "createClient", "username": str(i), "x": "y" * size} for i, size in enumerate(sizes)
    ]
    found = fitting(commands)
    assert [command for batch in found for command in batch] == commands
    assert all(sum(len(str(command)) for command in batch) <= BATCH_MAX_BYTES for batch in found)


def test_batches_are_of_two_hundred() -> None:
    found = fitting([{"command": "x"}] * (2 * BATCH_MAX_COMMANDS + 1))
    assert [len(batch) for batch in found] == [BATCH_MAX_COMMANDS, BATCH_MAX_COMMANDS, 1]
