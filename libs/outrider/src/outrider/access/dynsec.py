"""The broker's dynamic-security plugin over MQTT: read its whole state, carry commands out, one answer for each.

Works with Mosquitto from 2.0.21 on. The plugin works on the broker's only thread, and 2.0 writes its whole file after
every command: whoever sends many keeps the batches small.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any, Self

import orjson

from outrider.access.accounts import ACCESSES, Client, Command, Role, State
from outrider.access.rights import DYNSEC, DYNSEC_RESPONSE
from outrider.contract.limits import BROKER_PACKET_MAX_BYTES
from outrider.runtime.errors import OutriderError, Transient
from outrider.runtime.mqtt import Connection, Delivery

BATCH_MAX_COMMANDS = 200
BATCH_MAX_BYTES = BROKER_PACKET_MAX_BYTES // 4
"""Far below the broker's packet limit, beyond which it would cut the connection."""
CLIENTS_PAGE = 1000
ROLES_PAGE = 10
"""Few, because a gateway's role may be long."""
ANSWER_TIMEOUT_S = 60.0
"""A batch of 200 takes Mosquitto 2.0 six seconds when it holds 10,000 accounts."""


class Refused(OutriderError):
    """The broker did not carry a command out."""

    def __init__(self, command: Command, error: str) -> None:
        what = command.get("username") or command.get("rolename") or command.get("groupname") or ""
        super().__init__(f"the broker refused {command['command']} {what}: {error}".replace("  ", " "))
        self.command = command
        self.error = error


class Dynsec:
    """A connection to the plugin. It does not come back when it breaks: open another one, and read the state again."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._waiting: dict[str, asyncio.Future[list[dict[str, Any]]]] = {}
        self.knows_user_patterns = False
        """True where `%u` means something in a role (Mosquitto ≥ 2.1)."""

    @classmethod
    async def open(cls, url: str, client_id: str | None = None) -> Self:
        """Connect with an account that may use the plugin. Raises Transient saying what to do."""
        dynsec = cls()
        connection = await Connection.open(
            url,
            client_id or f"svc:registry:dynsec:{secrets.token_hex(4)}",
            dynsec._on_delivery,
            clean_start=True,
            session_expiry_s=0,
            receive_maximum=10,
        )
        dynsec._connection = connection
        try:
            await connection.subscribe([DYNSEC_RESPONSE])
            (answer,) = await dynsec._ask([{"command": "listRoles", "verbose": True, "count": 1, "offset": 0}])
            # Only those that know patterns tell this field.
            dynsec.knows_user_patterns = any("allowwildcardsubs" in role for role in _data(answer)["roles"])
        except BaseException:
            await connection.close(end_session=True)
            raise
        return dynsec

    @property
    def connection(self) -> Connection:
        """The MQTT connection; `closed` is set when it ends."""
        assert self._connection is not None
        return self._connection

    async def read(self) -> State:
        """Everything the plugin holds. Raises Transient."""
        answers = await self._ask(
            [{"command": "getDefaultACLAccess"}, {"command": "listGroups", "count": -1, "offset": 0}]
        )
        defaults, groups = (_data(answer) for answer in answers)
        allowed = {entry["acltype"] for entry in defaults["acls"] if entry["allow"] and entry["acltype"] in ACCESSES}
        clients = await self._pages("listClients", "clients", CLIENTS_PAGE)
        roles = await self._pages("listRoles", "roles", ROLES_PAGE)
        return State(
            {client["username"]: Client.parse(client) for client in clients},
            {role["rolename"]: Role.parse(role) for role in roles},
            {group if isinstance(group, str) else group["groupname"] for group in groups["groups"]},
            allowed,
        )

    async def connected(self, usernames: Sequence[str]) -> set[str]:
        """Who of these is connected now. Only brokers with `knows_user_patterns` tell. Raises Transient."""
        found: set[str] = set()
        for batch in fitting([{"command": "getClient", "username": name} for name in usernames]):
            for answer in await self._ask(batch):
                client = answer.get("data", {}).get("client", {})  # no data: there is no such account
                if client.get("connections"):
                    found.add(client["username"])
        return found

    async def apply(self, commands: Sequence[Command]) -> list[Refused]:
        """Carry commands out, in their order and in batches that fit; what was refused. Raises Transient."""
        refused: list[Refused] = []
        for batch in fitting(commands):
            answers = await self._ask(batch)
            refused += [
                Refused(command, str(answer["error"]))
                for command, answer in zip(batch, answers, strict=True)
                if "error" in answer
            ]
        return refused

    async def close(self) -> None:
        """Disconnect."""
        await self.connection.close(end_session=True)

    async def _pages(self, command: str, what: str, size: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            (answer,) = await self._ask([{"command": command, "verbose": True, "count": size, "offset": len(found)}])
            page = _data(answer)[what]
            found += page
            if len(page) < size:
                return found

    async def _ask(self, commands: Sequence[Command]) -> list[dict[str, Any]]:
        mark = secrets.token_hex(8)
        marked = [{**command, "correlationData": f"{mark}/{number}"} for number, command in enumerate(commands)]
        answer: asyncio.Future[list[dict[str, Any]]] = asyncio.get_running_loop().create_future()
        self._waiting[mark] = answer
        closed = asyncio.ensure_future(self.connection.closed.wait())
        try:
            await self.connection.publish(DYNSEC, orjson.dumps({"commands": marked}))
            await asyncio.wait((answer, closed), timeout=ANSWER_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                if self.connection.closed.is_set():
                    raise self.connection.reason
                raise Transient(f"the broker's dynamic-security plugin did not answer within {ANSWER_TIMEOUT_S:g} s")
            answers = answer.result()
        finally:
            closed.cancel()
            del self._waiting[mark]
        if len(answers) != len(commands):
            raise Transient(f"the broker answered {len(answers)} of {len(commands)} commands")
        return answers

    def _on_delivery(self, delivery: Delivery) -> None:
        delivery.connection.ack([delivery.packet_id])
        answers = orjson.loads(delivery.payload)["responses"]
        mark = str(answers[0].get("correlationData", "")).partition("/")[0] if answers else ""
        waiting = self._waiting.get(mark)
        if waiting is not None and not waiting.done():
            waiting.set_result(answers)


def fitting(commands: Sequence[Command]) -> list[list[Command]]:
    """The commands in their order, in batches that the plugin and the broker's packet limit bear."""
    found: list[list[Command]] = []
    size = 0
    for command in commands:
        length = len(orjson.dumps(command)) + 64
        if not found or len(found[-1]) == BATCH_MAX_COMMANDS or size + length > BATCH_MAX_BYTES:
            found.append([])
            size = 0
        found[-1].append(command)
        size += length
    return found


def _data(answer: dict[str, Any]) -> dict[str, Any]:
    """What a question was answered. Raises Transient where it was refused."""
    if "error" in answer:
        raise Transient(f"the broker refused {answer.get('command')}: {answer['error']}")
    data: dict[str, Any] = answer["data"]
    return data
