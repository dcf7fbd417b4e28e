"""Who may say something: a message counts only if its device is registered, active, and in the tenant its topic names.

On Mosquitto 2.0 a device can publish under a foreign tenant, so every handler asks here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString, TypeVar

import psycopg
from pydantic import BaseModel

from outrider.contract.reasons import Reason
from outrider.runtime.errors import Rejected
from outrider.runtime.rejects import Rejection, from_topic
from outrider_registry.control.message import Message

P = TypeVar("P", bound=BaseModel)

GROUP = "registry"
"""The name under which the control plane keeps rejected messages."""
DEVICES: LiteralString = """
SELECT d.id, d.tenant, d.status, t.disabled_at IS NOT NULL
FROM registry.device d JOIN registry.tenant t ON t.name = d.tenant WHERE d.id = ANY (%s)
"""


async def admit(
    connection: psycopg.AsyncConnection, messages: Sequence[Message], model: type[P]
) -> tuple[list[tuple[Message, P]], list[Rejection]]:
    """The messages of devices that may speak, read, in their order; and the others as rejections, to be kept with
    `rejects.keep(connection, GROUP, …)` in the same transaction, which must see all tenants."""
    names = sorted({message.values["device"] for message in messages})
    rows = await (await connection.execute(DEVICES, (names,))).fetchall()
    known = {device: (tenant, status, closed) for device, tenant, status, closed in rows}
    admitted: list[tuple[Message, P]] = []
    refused: list[Rejection] = []
    for message in messages:
        try:
            _check(message, known.get(message.values["device"]))
            admitted.append((message, message.read(model)))
        except Rejected as error:
            kept = rejection(message, error.reason, error.detail)
            if owner := known.get(message.values["device"]):
                kept.tenant = owner[0]  # whose device it is sees what it did; a tenant that it names does not
            refused.append(kept)
    return admitted, refused


def rejection(message: Message, reason: Reason, detail: str) -> Rejection:
    """The message as a row of `rejected.message`."""
    return from_topic(message.delivery.topic, message.payload, message.received_ms, reason, detail)


def _check(message: Message, found: tuple[str, str, bool] | None) -> None:
    if found is None:
        raise Rejected(Reason.UNKNOWN_DEVICE, "no such device is registered")
    tenant, status, closed = found
    if tenant != message.values["tenant"]:
        raise Rejected(Reason.WRONG_TENANT, "the device belongs to another tenant")
    if status != "active" or closed:
        raise Rejected(Reason.DISABLED_DEVICE, "its tenant is disabled" if closed else f"the device is {status}")
