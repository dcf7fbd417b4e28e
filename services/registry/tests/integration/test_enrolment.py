"""Enrolment and rotation with everything real: devices, Mosquitto of both series, the running registry (faults 43, 44)."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from outrider.access import authority
from outrider.access.secrets import device_secret
from outrider.contract import topics
from outrider.runtime.errors import Transient
from outrider.runtime.mqtt import Connection
from outrider.runtime.packets import Request
from outrider.servers import Mosquitto, ServerError, mosquitto, ports
from outrider.testing.fixtures import Database, unavailable
from outrider.testing.services import Client, connected, running
from outrider.testing.waiting import eventually
from outrider_registry.app import service
from outrider_registry.control import credentials
from outrider_registry.testing import KEYS, Api
from outrider_registry.testing.broker import At, until

pytestmark = pytest.mark.servers

MASTER_KEY = "k1:" + base64.b64encode(b"a test's own master key, 32 bytes and more").decode()


@dataclass
class Platform:
    """A broker, a registry that serves it, and the API."""

    at: At
    api: Api
    database: Database
    tls: Path

    async def claim(self, **wanted: Any) -> dict[str, Any]:
        """A claim whose account the broker knows."""
        answer = await self.api.operator.post("claims", json=wanted)
        assert answer.status_code == 201, answer.text
        claim: dict[str, Any] = answer.json()
        await until(lambda: self.at.lets_in(self.claim_url(claim)))
        return claim

    def claim_url(self, claim: dict[str, Any]) -> str:
        """The devices' door with a claim's login, as it was printed."""
        return self.at.url(claim["username"], claim["token"])

    def device_url(self, reply: dict[str, Any]) -> str:
        """The devices' door with the login of a reply."""
        return self.at.url(reply["username"], reply["secret"])

    async def enrol(self, claim: dict[str, Any], **asked: Any) -> dict[str, Any]:
        """The reply to a request over MQTT."""
        async with connected(self.claim_url(claim), claim["username"], [claim["reply_topic"]]) as client:
            return await ask(client, claim, asked)

    async def device(self, **wanted: Any) -> dict[str, Any]:
        """The reply that made a new device, which the broker lets in."""
        reply = await self.enrol(await self.claim(**wanted), serial="SN-1")
        assert reply["status"] == "accepted", reply
        await until(lambda: self.at.lets_in(self.device_url(reply)))
        return reply


async def ask(client: Client, claim: dict[str, Any], asked: dict[str, Any] | bytes) -> dict[str, Any]:
    """The next reply on a claim's connection that answers this request, as a device tells by its serial number."""
    seen = len(client.received)
    serial = None if isinstance(asked, bytes) or len(asked.get("serial", "")) > 128 else asked.get("serial")
    await client.publish(claim["topic"], asked)

    def replies() -> list[dict[str, Any]]:
        found = [json.loads(delivery.payload) for delivery in client.received[seen:]]
        return [reply for reply in found if reply.get("serial") == serial]

    return (await eventually(replies, interval_s=0.01))[0]


@pytest.fixture(params=["2.1", "2.0"])
async def platform(
    request: pytest.FixtureRequest, api: Api, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Platform]:
    monkeypatch.setattr(credentials, "ROTATE_INTERVAL_S", 0.5)
    tls = tmp_path / "tls"
    authority.write_tls_folder(tls, KEYS, ["127.0.0.1"])
    async with AsyncExitStack() as stack:
        try:
            program = mosquitto.find(series=request.param)
            server = stack.enter_context(Mosquitto(tmp_path / "mosquitto", program=program, keys=KEYS, tls=tls))
        except ServerError as error:
            if request.param == "2.0":
                pytest.skip(f"no Mosquitto 2.0 can be had here: {error}")
            unavailable("Mosquitto", error)
        await stack.enter_async_context(
            running(
                service,
                server.url_of("registry"),
                database.service_urls["registry"],
                master_key=MASTER_KEY,
                registry_http_port=ports.free_port(),
                tls_folder=tls,
                dynsec_file=server.dynsec_file,
            )
        )
        yield Platform(At(server), api, database, tls)


async def test_a_device_enrols_over_mqtt_and_is_one(platform: Platform) -> None:
    claim = await platform.claim(device="van-7", template={"tags": ["van"]})
    reply = await platform.enrol(claim, serial="SN-1")
    assert (reply["status"], reply["device"], reply["tenant"], reply["generation"]) == ("accepted", "van-7", "acme", 1)
    await until(lambda: platform.at.lets_in(platform.device_url(reply)))
    assert await platform.enrol(claim, serial="SN-1") == reply, "as long as it has not been seen"
    async with connected(platform.device_url(reply), "van-7") as device:
        await device.publish(reply["topics"]["status"], {"state": "online", "boot": 7})

        async def is_gone() -> bool:
            return not await platform.at.lets_in(platform.claim_url(claim))

        await until(is_gone)
        await device.publish(reply["topics"]["status"], {"state": "online", "boot": 7})  # it stays connected


async def test_the_reply_is_lost_and_others_try_the_same_claim(platform: Platform) -> None:
    """Fault 43: reused, raced, retried: one device a token."""
    claim = await platform.claim()
    async with connected(platform.claim_url(claim), claim["username"]) as deaf:
        await deaf.publish(claim["topic"], {"serial": "SN-1"})  # hears no reply: it did not subscribe
    thief = await platform.enrol(claim, serial="SN-2")
    assert (thief["status"], thief["reason"]) == ("refused", "already_used")
    again = [await platform.enrol(claim, serial="SN-1") for _ in range(3)]
    assert again[0]["status"] == "accepted"
    assert again == [again[0]] * 3
    assert platform.database.value("SELECT count(*) FROM registry.device") == 1
    assert platform.database.value("SELECT count(*) FROM registry.credential") == 1


async def test_a_reply_names_its_request(platform: Platform) -> None:
    """MQTT 5.0 section 4.10, for the claim's own reply topic only."""
    claim = await platform.claim()
    asked = json.dumps({"nonce": "5f0c77a1"}).encode()
    async with connected(platform.claim_url(claim), claim["username"], [claim["reply_topic"]]) as client:
        for topic in (claim["reply_topic"], "fleet/v1/acme/van-7/telemetry"):
            await client.connection.publish(claim["topic"], asked, request=Request(topic, b"request 1"))
        await eventually(lambda: len(client.received) == 2)
    told = [(delivery.topic, (delivery.properties or {}).get("correlation_data")) for delivery in client.received]
    assert told == [(claim["reply_topic"], [b"request 1"]), (claim["reply_topic"], None)]
    assert json.loads(client.received[0].payload)["nonce"] == "5f0c77a1"


async def test_an_expired_claim_does_not_get_in(platform: Platform) -> None:
    claim = await platform.claim(hours=1)
    platform.database.rows("UPDATE registry.claim SET expires_at = now() - interval '1 s', reply_due = false")

    async def is_gone() -> bool:
        return not await platform.at.lets_in(platform.claim_url(claim))

    await until(is_gone)


async def test_a_device_that_waits_hears_the_decision(platform: Platform) -> None:
    yes, no = await platform.claim(approval=True, device="van-1"), await platform.claim(approval=True, device="van-2")
    async with (
        connected(platform.claim_url(yes), yes["username"], [yes["reply_topic"]]) as first,
        connected(platform.claim_url(no), no["username"], [no["reply_topic"]]) as second,
    ):
        assert (await ask(first, yes, {"serial": "SN-1"}))["status"] == "pending"
        assert (await ask(second, no, {"serial": "SN-2"}))["status"] == "pending"
        assert (await platform.api.operator.post(f"claims/{yes['id']}/approve")).status_code == 200
        assert (await platform.api.operator.post(f"claims/{no['id']}/refuse")).status_code == 200
        await eventually(lambda: len(first.received) == 2 and len(second.received) == 2)
    reply = json.loads(first.received[1].payload)
    assert (reply["status"], reply["device"]) == ("accepted", "van-1")
    assert json.loads(second.received[1].payload)["reason"] == "refused"
    await until(lambda: platform.at.lets_in(platform.device_url(reply)))


async def test_a_request_that_cannot_be_read_is_answered_and_kept(platform: Platform) -> None:
    claim = await platform.claim()
    async with connected(platform.claim_url(claim), claim["username"], [claim["reply_topic"]]) as client:
        assert (await ask(client, claim, b"{"))["reason"] == "bad_request"
        reply = await ask(client, claim, {"serial": "x" * 1000})
        assert (reply["status"], reply["reason"]) == ("refused", "bad_request")
        assert "serial" in reply["detail"]
    await eventually(lambda: platform.database.value("SELECT count(*) FROM rejected.message") == 2)
    assert (await platform.enrol(claim, serial="SN-1"))["status"] == "accepted", "the claim was not spent by that"


async def test_the_printed_commands_work(platform: Platform, tmp_path: Path) -> None:
    """What docs/howto/enrol-devices.md says to type."""
    server = platform.at.server
    tools = {path.name: str(path) for path in server.write_client_commands(tmp_path / "bin")}
    if "mosquitto_rr" not in tools:
        pytest.skip("this Mosquitto comes without mosquitto_rr")
    claim = await platform.claim(device="van-7")
    to = ["-h", "127.0.0.1", "-p", str(server.device_port)]
    asked = [*to, "-i", claim["username"], "-u", claim["username"], "-P", claim["token"], "-q", "1", "-W", "20"]
    asked += ["-t", claim["topic"], "-e", claim["reply_topic"], "-m", '{"serial":"SN-1"}']
    answer = await asyncio.to_thread(
        subprocess.run, [tools["mosquitto_rr"], *asked], capture_output=True, text=True, timeout=60, check=True
    )
    reply = json.loads(answer.stdout)
    await until(lambda: platform.at.lets_in(platform.device_url(reply)))
    published = [*to, "-u", reply["username"], "-P", reply["secret"], "-q", "1"]
    published += ["-t", reply["topics"]["status"], "-m", '{"state":"online"}']
    await asyncio.to_thread(subprocess.run, [tools["mosquitto_pub"], *published], timeout=60, check=True)
    await eventually(lambda: platform.database.rows("SELECT state FROM registry.presence") == [("online",)])


async def test_a_secret_is_rotated_while_the_device_is_connected(platform: Platform) -> None:
    reply = await platform.device(device="van-7")
    topic = topics.CREDENTIAL.name(tenant="acme", device="van-7")
    async with connected(platform.device_url(reply), "van-7", [topic]) as device:
        await device.publish(reply["topics"]["status"], {"state": "online", "boot": 7})
        await eventually(lambda: platform.database.value("SELECT last_used_at IS NOT NULL FROM registry.credential"))
        assert (await platform.api.operator.post("devices/van-7/credentials/rotate")).status_code == 200
        await eventually(lambda: device.documents(topic))
        new = device.documents(topic)[0]
        assert new["generation"] == 2
        assert await platform.at.lets_in(platform.device_url(reply)), "the old one works until it is confirmed"
    renewed = reply | {"secret": new["secret"]}
    assert not await platform.at.lets_in(platform.device_url(renewed))
    async with connected(platform.device_url(reply), "van-7") as device:
        confirmed = {"generation": 2}
        await device.publish(reply["topics"]["credential/confirm"], confirmed)
        await until(lambda: platform.at.lets_in(platform.device_url(renewed)))
    assert not await platform.at.lets_in(platform.device_url(reply))
    async with connected(platform.device_url(renewed), "van-7") as device:
        await device.publish(reply["topics"]["credential/confirm"], confirmed)  # again: nothing changes
    assert await platform.at.lets_in(platform.device_url(renewed))


async def test_a_device_that_was_away_gets_its_secret_when_it_comes_back(platform: Platform) -> None:
    reply = await platform.device(device="van-7")
    topic = topics.CREDENTIAL.name(tenant="acme", device="van-7")
    async with connected(platform.device_url(reply), "van-7") as device:
        await device.publish(reply["topics"]["status"], {"state": "offline"})
        await eventually(lambda: platform.database.rows("SELECT state FROM registry.presence") == [("offline",)])
    await platform.api.operator.post("devices/van-7/credentials/rotate")
    async with connected(platform.device_url(reply), "van-7", [topic]) as device:
        await device.publish(reply["topics"]["status"], {"state": "online", "boot": 8})
        await eventually(lambda: device.documents(topic))
        assert device.documents(topic)[0]["generation"] == 2


async def test_no_secret_lies_in_the_brokers_files(platform: Platform) -> None:
    """A device with a session of its own, gone without a word: what is for it waits on the broker's disk."""
    reply = await platform.device(device="van-7")
    topic, status = (t.name(tenant="acme", device="van-7") for t in (topics.CREDENTIAL, topics.STATUS))
    device = await Connection.open(
        platform.device_url(reply), "van-7", lambda _: None, clean_start=True, session_expiry_s=3600, receive_maximum=10
    )
    await device.subscribe([topic])
    await device.publish(status, b'{"state": "online"}')
    await eventually(lambda: platform.database.rows("SELECT state FROM registry.presence") == [("online",)])
    device.abort()
    assert (await platform.api.operator.post("devices/van-7/credentials/rotate")).status_code == 200
    sent = "SELECT delivered_at IS NOT NULL FROM registry.credential WHERE generation = 2"
    await eventually(lambda: platform.database.value(sent))
    # What is written later is there: so is what was written before.
    other = await platform.device(device="van-8")
    async with connected(platform.device_url(other), "van-8") as client:
        await client.connection.publish(other["topics"]["status"], b'{"state":"online","fw":"marked"}', retain=True)
    await eventually(lambda: b'"fw":"marked"' in _files(platform.at.server.data_dir))
    files = _files(platform.at.server.data_dir)
    for secret in (reply["secret"], other["secret"], device_secret(KEYS, "van-7", 2)):
        assert secret.encode() not in files


def _files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_a_device_that_stays_away_too_long_claims_again(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 44, at the broker: in until the window ends, out after it, in again with a claim under the same id."""
    monkeypatch.setattr(credentials, "EXPIRE_AFTER_S", 0.0)
    reply = await platform.device(device="van-7")
    await platform.api.operator.post("devices/van-7/credentials/rotate")
    assert await platform.at.lets_in(platform.device_url(reply))
    platform.database.rows("UPDATE registry.credential SET grace_until = now() - interval '1 s' WHERE generation = 1")

    async def is_out() -> bool:
        return not await platform.at.lets_in(platform.device_url(reply))

    await until(is_out)
    back = await platform.device(device="van-7")
    assert (back["device"], back["generation"]) == ("van-7", 3)


async def test_revoked_means_out(platform: Platform) -> None:
    reply = await platform.device(device="van-7")
    async with connected(platform.device_url(reply), "van-7") as device:
        await platform.api.operator.post("devices/van-7/credentials/revoke")
        async with asyncio.timeout(10):
            await device.connection.closed.wait()
    with pytest.raises(Transient):
        async with connected(platform.device_url(reply), "van-7"):
            pass


async def test_a_device_with_a_certificate_until_it_is_revoked(platform: Platform, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    claim = await platform.claim(device="van-7")
    asked = {"csr": csr.public_bytes(serialization.Encoding.PEM).decode()}
    answer = await platform.api.nobody.post("enrol", json={"claim": claim["id"], "token": claim["token"], **asked})
    assert answer.status_code == 200, answer.text
    reply = answer.json()
    assert await platform.enrol(claim, **asked) == reply, "over MQTT it is the same"
    files = tmp_path / "van-7.key", tmp_path / "van-7.crt", tmp_path / "ca.crt"
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files[0].write_bytes(key.private_bytes(*form))
    files[1].write_text(reply["certificate"])
    files[2].write_text(reply["chain"])
    await until(lambda: asyncio.to_thread(may_publish, platform.at.server.device_cert_port, files, reply))
    revoked = await platform.api.operator.post("devices/van-7/credentials/revoke")
    assert revoked.json() == {"revoked": [{"generation": 1, "kind": "certificate"}]}

    async def is_out() -> bool:
        return not await asyncio.to_thread(may_publish, platform.at.server.device_cert_port, files, reply)

    await until(is_out)  # at once, by its account
    serial = x509.load_pem_x509_certificate(reply["certificate"].encode()).serial_number
    listed = lambda: x509.load_pem_x509_crl((platform.tls / "crl.pem").read_bytes())  # noqa: E731
    await eventually(lambda: listed().get_revoked_certificate_by_serial_number(serial))
    os.kill(platform.at.server.pid, signal.SIGHUP)  # what the embedded platform does when crl.pem changed

    def not_even_tls() -> bool:
        try:
            may_publish(platform.at.server.device_cert_port, files, reply)
        except (ssl.SSLError, ConnectionError):
            return True
        return False

    await eventually(not_even_tls)


def may_publish(port: int, files: tuple[Path, Path, Path], reply: dict[str, Any]) -> bool:
    """True if a device with this certificate is let in and may publish its status (MQTT 5, QoS 1: PUBACK below 0x80)."""
    context = ssl.create_default_context(cafile=str(files[2]))
    context.load_cert_chain(files[1], files[0])
    topic, payload = reply["topics"]["status"].encode(), b'{"state":"online"}'
    connect = b"\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00"
    publish = len(topic).to_bytes(2, "big") + topic + b"\x00\x01\x00" + payload
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        tls.sendall(bytes([0x10, len(connect)]) + connect + bytes([0x32, len(publish)]) + publish)
        received = b""
        while part := tls.recv(4096):
            received += part
            connack = received[: 2 + received[1]] if len(received) > 1 else b""
            if len(connack) > 3 and connack[3] >= 0x80:
                return False
            rest = received[len(connack) :]
            if len(rest) >= 4 and rest[0] == 0x40:
                return rest[1] == 2 or rest[4] < 0x80
        return False
