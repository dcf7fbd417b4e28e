"""Puts devices into a test's broker, as the registry does in a real one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from outrider.access import rights
from outrider.access.secrets import device_secret
from outrider.runtime.mqtt import Delivery
from outrider.servers import Mosquitto
from outrider.testing.services import connected

_CONTROL = "$CONTROL/dynamic-security/v1"


async def add_device(broker: Mosquitto, device: str, tenant: str = "demo") -> str:
    """Makes a device's account with its tenant's rights; returns the URL on the devices' port with its login.

    The broker's fixture must have its test account. The secret is the device's of generation 1.
    """
    role = f"tenant:{tenant}"
    account: dict[str, Any] = {"command": "createClient", "username": device, "clientid": device, "roles": []}
    account["password"] = device_secret(broker.keys, device, 1)
    commands = [account]
    if broker.program.version >= (2, 1, 0):  # 2.0 takes the rights of devices from its acl_file
        commands.insert(0, {"command": "createRole", **rights.role_document(role, rights.tenant_role(tenant))})
        account["roles"] = [{"rolename": role}]
    for answer in await control(broker, commands):
        assert answer.get("error") in (None, "Role already exists"), answer
    return f"mqtt://{device}:{account['password']}@127.0.0.1:{broker.device_port}"


async def control(broker: Mosquitto, commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gives commands to the broker's dynamic-security plugin through the test account; its answers, in order."""
    async with connected(broker.url, "test-control", [f"{_CONTROL}/response"]) as client:
        await client.connection.publish(_CONTROL, json.dumps({"commands": commands}).encode())
        async with asyncio.timeout(10):
            while not client.received:
                await asyncio.sleep(0.01)
        answer: Delivery = client.received[0]
        responses: list[dict[str, Any]] = json.loads(answer.payload)["responses"]
        return responses
