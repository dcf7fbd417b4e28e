"""Claims: one device per token, whoever comes first; the same device gets the same answer again (fault 43)."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from outrider.access.secrets import device_secret
from outrider.contract.payloads import Claim, ClaimReply
from outrider.testing.fixtures import Database
from outrider_registry import enrolment
from outrider_registry.context import Registry
from outrider_registry.store import claims, redemption
from outrider_registry.store.transactions import of_platform
from outrider_registry.testing import KEYS, Api


async def make(api: Api, **wanted: Any) -> dict[str, Any]:
    """A new claim."""
    answer = await api.operator.post("claims", json=wanted)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def ask(registry: Registry, claim: dict[str, Any], **asked: Any) -> ClaimReply:
    """The reply to a request with this claim."""
    return await enrolment.redeem(registry, claim["id"], Claim.model_validate(asked))


def csr_for(name: str | None) -> str:
    """A certificate request of a new key."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes)).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


async def test_a_claim_makes_a_device_with_all_it_needs(api: Api, database: Database) -> None:
    database.rows(
        """INSERT INTO registry.configuration (tenant, name, applies_to, selector, state)
           VALUES ('acme', 'nights', 'tag', 'night', '{"interval_s": 30}')"""
    )
    claim = await make(api, template={"type": "van", "tier": "pi", "tags": ["night", "berlin"], "owner": "Ann"})
    assert claim["username"] == f"claim:{claim['id']}"
    reply = await ask(
        api.registry, claim, device="van-7", serial="SN-1", hardware="pi-4", firmware="1.4.0", type="truck"
    )
    assert reply.status == "accepted"
    assert reply.serial == "SN-1", "so that a device can tell whose request this answers"
    assert (reply.device, reply.tenant, reply.username, reply.generation) == ("van-7", "acme", "van-7", 1)
    assert reply.secret == device_secret(KEYS, "van-7", 1)
    assert reply.mqtt is not None
    assert reply.mqtt.url == api.registry.settings.device_mqtt_url
    assert reply.topics is not None
    assert reply.topics["telemetry"] == "fleet/v1/acme/van-7/telemetry"
    assert reply.topics["shadow/desired"] == "fleet/v1/acme/van-7/shadow/desired"
    device = (await api.operator.get("devices/van-7")).json()
    assert (device["type"], device["tier"], device["tags"], device["owner"]) == (
        "van",
        "pi",
        ["berlin", "night"],
        "Ann",
    )
    assert (device["serial"], device["hardware"], device["firmware"]) == ("SN-1", "pi-4", "1.4.0")
    assert device["status"] == "active"
    assert database.value("SELECT desired FROM registry.shadow WHERE device = 'van-7'") == {"interval_s": 30}
    (row,) = (await api.operator.get("audit?object=device:van-7")).json()["items"]
    assert (row["actor"], row["action"]) == (f"claim:{claim['id']}", "device.enrol")


async def test_without_a_wish_the_device_gets_a_random_id(api: Api) -> None:
    first = await ask(api.registry, await make(api), serial="SN-1")
    second = await ask(api.registry, await make(api), serial="SN-1")
    assert first.device != second.device
    assert first.device is not None
    assert first.device.startswith("d-")


async def test_the_same_request_again_gets_the_same_answer(api: Api, database: Database) -> None:
    claim = await make(api)
    first = await ask(api.registry, claim, serial="SN-1", firmware="1.0.0")
    # What may change between two tries of one device does not make it another one.
    assert await ask(api.registry, claim, serial="SN-1", firmware="1.0.1") == first
    assert database.value("SELECT count(*) FROM registry.device") == 1
    assert database.value("SELECT count(*) FROM registry.credential") == 1


async def test_another_device_is_refused_and_audited(api: Api) -> None:
    claim = await make(api)
    await ask(api.registry, claim, serial="SN-1")
    reply = await ask(api.registry, claim, serial="SN-2")
    assert (reply.status, reply.reason) == ("refused", "already_used")
    assert reply.secret is None
    refused = (await api.operator.get(f"audit?object=claim:{claim['id']}&action=claim.refuse")).json()["items"]
    assert [row["detail"]["serial"] for row in refused] == ["SN-2"]
    for number in range(redemption.AUDITED_REFUSALS + 5):
        await ask(api.registry, claim, serial=f"flood-{number}")
    shown = (await api.operator.get(f"claims/{claim['id']}")).json()
    assert shown["refusals"] == redemption.AUDITED_REFUSALS, "somebody who asks for ever must not fill the audit"


@pytest.mark.parametrize("seed", range(6))
async def test_of_devices_that_race_for_a_claim_one_wins(api: Api, database: Database, seed: int) -> None:
    """Any number of devices, each trying several times, in any order, at once: one identity, always the same one."""
    chance = random.Random(seed)
    claim = await make(api, approval=False)
    devices = [f"SN-{number}" for number in range(chance.randint(2, 6))]
    tries = [serial for serial in devices for _ in range(chance.randint(1, 5))]
    chance.shuffle(tries)
    replies = await asyncio.gather(*(ask(api.registry, claim, serial=serial) for serial in tries))
    accepted = {
        (serial, reply.device, reply.secret) for serial, reply in zip(tries, replies, strict=True) if reply.secret
    }
    assert len(accepted) == 1
    winner = next(iter(accepted))[0]
    for serial, reply in zip(tries, replies, strict=True):
        assert reply.status == ("accepted" if serial == winner else "refused"), serial
        assert serial == winner or reply.reason == "already_used"
    assert database.value("SELECT count(*) FROM registry.device") == 1
    assert database.value("SELECT count(*) FROM registry.credential") == 1


async def test_of_two_claims_that_race_for_one_id_one_gets_it(api: Api, database: Database) -> None:
    made = [await make(api) for _ in range(8)]
    replies = await asyncio.gather(*(ask(api.registry, claim, device="van-7", serial=claim["id"]) for claim in made))
    assert sorted(reply.status for reply in replies) == ["accepted"] + ["refused"] * 7
    assert {reply.reason for reply in replies} == {None, "name_taken"}
    assert database.value("SELECT count(*) FROM registry.claim WHERE state = 'open'") == 7, "those stay good"


@pytest.mark.parametrize("approval", [False, True])
async def test_a_device_that_comes_up_meanwhile_is_not_taken_over(
    api: Api, database: Database, monkeypatch: pytest.MonkeyPatch, approval: bool
) -> None:
    """Between choosing an id and taking it, another claim becomes this device."""
    first, second = await make(api), await make(api, approval=approval)
    choose = redemption._choose_device

    async def chosen(connection: Any, claim: claims.Claim, asked: Claim) -> Any:
        device = await choose(connection, claim, asked)
        if claim.id == second["id"]:
            assert device == "van-7"
            assert (await ask(api.registry, first, device="van-7", serial="SN-1")).status == "accepted"
        return device

    monkeypatch.setattr(redemption, "_choose_device", chosen)
    reply = await ask(api.registry, second, device="van-7", serial="SN-2")
    assert (reply.status, reply.reason) == ("refused", "name_taken")
    assert database.rows("SELECT generation, state FROM registry.credential") == [(1, "active")]
    assert database.value("SELECT serial FROM registry.device") == "SN-1"


async def test_who_cannot_be_told_from_another_is_not_let_in(api: Api) -> None:
    claim = await make(api)
    for nothing in ({}, {"serial": ""}, {"device": "van-7"}, {"firmware": "1.0.0", "nonce": ""}):
        reply = await ask(api.registry, claim, **nothing)
        assert (reply.status, reply.reason) == ("refused", "unidentified"), nothing
    assert (await ask(api.registry, claim, nonce="5f0c77a1")).status == "accepted", "the claim was not spent by that"


async def test_a_claim_for_a_serial_number_takes_no_other(api: Api) -> None:
    claim = await make(api, serial="SN-1")
    assert (await ask(api.registry, claim, serial="SN-2")).reason == "wrong_serial"
    assert (await ask(api.registry, claim, nonce="1234")).reason == "wrong_serial"
    assert (await ask(api.registry, claim, serial="SN-1")).status == "accepted"


async def test_expired_and_revoked_claims_are_refused(api: Api, database: Database) -> None:
    expired, revoked = await make(api), await make(api)
    database.rows("UPDATE registry.claim SET expires_at = now() WHERE id = %s", expired["id"])
    assert (await ask(api.registry, expired, serial="SN-1")).reason == "expired"
    assert (await api.operator.get(f"claims/{expired['id']}")).json()["state"] == "expired"
    assert (await api.operator.delete(f"claims/{revoked['id']}")).status_code == 204
    assert (await ask(api.registry, revoked, serial="SN-1")).reason == "revoked"
    assert (await ask(api.registry, {"id": "neverwas"}, serial="SN-1")).reason == "unknown"
    async with of_platform(api.registry.database) as connection:
        assert await claims.expire(connection, 10) == [(expired["id"], "acme")]
        assert await claims.expire(connection, 10) == []
    assert database.value("SELECT state FROM registry.claim WHERE id = %s", expired["id"]) == "expired"
    assert database.value("SELECT count(*) FROM registry.device") == 0


async def test_a_disabled_tenant_takes_nobody_in(api: Api, database: Database) -> None:
    claim = await make(api)
    database.rows("UPDATE registry.tenant SET disabled_at = now() WHERE name = 'acme'")
    asked = {"claim": claim["id"], "token": claim["token"], "serial": "SN-1"}
    answer = await api.nobody.post("enrol", json=asked)
    assert (answer.status_code, answer.json()["reason"]) == (403, "disabled")
    database.rows("UPDATE registry.tenant SET disabled_at = NULL WHERE name = 'acme'")
    assert (await api.nobody.post("enrol", json=asked)).status_code == 200


async def test_once_the_device_was_seen_the_claim_answers_no_more(api: Api, database: Database) -> None:
    claim = await make(api)
    reply = await ask(api.registry, claim, serial="SN-1")
    async with of_platform(api.registry.database) as connection:
        await claims.note_seen(connection, None)
    assert (await ask(api.registry, claim, serial="SN-1")) == reply, "it has not connected yet"
    database.rows(
        "INSERT INTO registry.presence (device, tenant, state, since) VALUES (%s, 'acme', 'online', now())",
        reply.device,
    )
    async with of_platform(api.registry.database) as connection:
        await claims.note_seen(connection, [str(reply.device)])
    again = await ask(api.registry, claim, serial="SN-1")
    assert (again.status, again.reason, again.secret) == ("refused", "already_used", None)


async def test_after_the_claims_time_nobody_gets_the_secret_again(api: Api, database: Database) -> None:
    claim = await make(api, hours=1)
    await ask(api.registry, claim, serial="SN-1")
    until, expires = database.rows("SELECT client_until, expires_at FROM registry.claim")[0]
    assert until == expires, "a device that sleeps for long asks again until the claim ends"
    database.rows("UPDATE registry.claim SET expires_at = now(), client_until = now()")
    assert (await ask(api.registry, claim, serial="SN-1")).reason == "already_used"


async def test_a_device_that_waits_for_approval(api: Api, database: Database) -> None:
    claim = await make(api, approval=True, device="van-7")
    assert (await ask(api.registry, claim, serial="SN-1")).status == "pending"
    assert (await ask(api.registry, claim, serial="SN-1")).status == "pending"
    assert (await ask(api.registry, claim, serial="SN-2")).reason == "already_used"
    assert (await api.operator.get("devices/van-7")).json()["status"] == "pending"
    assert database.value("SELECT count(*) FROM registry.credential") == 0
    shown = (await api.viewer.get("claims?state=awaiting_approval")).json()["items"]
    assert [(one["used_by"], one["request"]["serial"]) for one in shown] == [("van-7", "SN-1")]
    assert (await api.viewer.post(f"claims/{claim['id']}/approve")).status_code == 403
    assert (await api.other.post(f"claims/{claim['id']}/approve")).status_code == 404
    answer = await api.operator.post(f"claims/{claim['id']}/approve")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["state"], answer.json()["decided_by"]) == ("used", "user:otto")
    reply = await ask(api.registry, claim, serial="SN-1")
    assert reply.secret == device_secret(KEYS, "van-7", 1)
    assert (await api.operator.get("devices/van-7")).json()["status"] == "active"
    async with of_platform(api.registry.database) as connection:
        ((told, asked, answered),) = await redemption.due(connection, KEYS, 10)
        assert (told, enrolment.reply_of(answered, asked, KEYS, api.registry.settings)) == (claim["id"], reply)
        await claims.replied(connection, [told])
        assert await redemption.due(connection, KEYS, 10) == []
    assert (await api.operator.post(f"claims/{claim['id']}/approve")).status_code == 409
    assert (await api.operator.post(f"claims/{claim['id']}/refuse")).status_code == 409


async def test_a_device_that_is_sent_away(api: Api, database: Database) -> None:
    claim = await make(api, approval=True)
    await ask(api.registry, claim, device="van-7", serial="SN-1")
    answer = await api.operator.post(f"claims/{claim['id']}/refuse")
    assert answer.json()["state"] == "refused", answer.text
    assert (await ask(api.registry, claim, device="van-7", serial="SN-1")).reason == "refused"
    assert database.value("SELECT count(*) FROM registry.device") == 0
    async with of_platform(api.registry.database) as connection:
        assert [(id_, answer) for id_, _, answer in await redemption.due(connection, KEYS, 10)] == [
            (claim["id"], redemption.DECLINED)
        ]


async def test_nobody_decides_in_time(api: Api, database: Database) -> None:
    claim = await make(api, approval=True, hours=1)
    await ask(api.registry, claim, device="van-7", serial="SN-1")
    assert database.value("SELECT expires_at > now() + interval '6 days' FROM registry.claim"), "people have week-ends"
    database.rows("UPDATE registry.claim SET expires_at = now()")
    assert (await api.operator.post(f"claims/{claim['id']}/approve")).status_code == 410
    async with of_platform(api.registry.database) as connection:
        await claims.expire(connection, 10)
    assert database.value("SELECT count(*) FROM registry.device") == 0


@pytest.mark.parametrize("end", ["expire", "refuse", "revoke"])
async def test_a_device_that_was_never_let_in_goes_though_it_was_made_a_gateway(
    end: str, api: Api, database: Database
) -> None:
    claim = await make(api, device="gate-1", approval=True)
    assert (await ask(api.registry, claim, serial="SN-1")).status == "pending"
    assert (await api.operator.post("devices", json={"id": "sensor-1", "gateway": "gate-1"})).status_code == 201
    if end == "expire":
        database.rows("UPDATE registry.claim SET expires_at = now()")
        async with of_platform(api.registry.database) as connection:
            assert await claims.expire(connection, 10) == [(claim["id"], "acme")]
    elif end == "refuse":
        assert (await api.operator.post(f"claims/{claim['id']}/refuse")).status_code == 200
    else:
        assert (await api.operator.delete(f"claims/{claim['id']}")).status_code < 300
    assert database.rows("SELECT id, gateway, version FROM registry.device") == [("sensor-1", None, 2)]


async def test_a_device_comes_back_with_a_claim_for_it(api: Api, database: Database) -> None:
    """After its secret expired, or on new hardware: only with a claim that names it, and nothing old stays valid."""
    await ask(api.registry, await make(api), device="van-7", serial="SN-1")
    stranger = await ask(api.registry, await make(api), device="van-7", serial="SN-2")
    assert (stranger.status, stranger.reason) == ("refused", "name_taken")
    again = await ask(api.registry, await make(api, device="van-7"), serial="SN-2", hardware="pi-5")
    assert (again.device, again.generation) == ("van-7", 2)
    assert again.secret == device_secret(KEYS, "van-7", 2)
    rows = database.rows("SELECT generation, state FROM registry.credential ORDER BY generation")
    assert rows == [(1, "revoked"), (2, "active")]
    device = (await api.operator.get("devices/van-7")).json()
    assert (device["serial"], device["hardware"]) == ("SN-2", "pi-5")


async def test_a_claim_for_a_device_that_cannot_enrol(api: Api) -> None:
    await api.operator.post("devices", json={"id": "pi-3"})
    await api.operator.post("devices", json={"id": "sensor-1", "gateway": "pi-3"})
    child = await api.operator.post("claims", json={"device": "sensor-1"})
    assert child.status_code == 409
    assert "speaks for it" in child.json()["detail"]
    claim = await make(api, device="pi-3")
    await api.operator.post("devices/pi-3/disable")
    assert (await ask(api.registry, claim, serial="SN-1")).reason == "disabled"
    assert (await api.operator.post("claims", json={"device": "pi-3"})).status_code == 409
    elsewhere = await api.other.post("claims", json={"device": "pi-3"})
    assert elsewhere.status_code == 409
    claim = await make(api, device="van-9")
    await api.other.post("devices", json={"id": "van-9"})
    assert (await ask(api.registry, claim, serial="SN-1")).reason == "name_taken"


async def test_a_certificate_request_gets_a_certificate(api: Api) -> None:
    claim = await make(api, device="van-7")
    csr = csr_for("van-7")
    reply = await ask(api.registry, claim, csr=csr)
    assert (reply.status, reply.device, reply.secret) == ("accepted", "van-7", None)
    assert reply.certificate is not None
    assert reply.chain is not None
    certificate = x509.load_pem_x509_certificate(reply.certificate.encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(reply.chain.encode()))
    assert certificate.public_key() == x509.load_pem_x509_csr(csr.encode()).public_key()
    assert await ask(api.registry, claim, csr=csr) == reply, "the very same certificate"
    assert (await ask(api.registry, claim, csr=csr_for("van-7"))).reason == "already_used"


async def test_certificate_requests_that_are_refused(api: Api) -> None:
    claim = await make(api, device="van-7")
    for csr in (csr_for("van-8"), csr_for("Not A Device"), "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", "x"):
        assert (await ask(api.registry, claim, csr=csr)).reason == "bad_csr", csr
    assert (await ask(api.registry, claim, csr=csr_for(None))).device == "van-7", "an empty subject is fine"
    assert (await ask(api.registry, await make(api), csr=csr_for("van-8"))).device == "van-8", "it names the device"


async def test_text_that_is_none_is_refused(api: Api) -> None:
    claim = await make(api)
    for bad in ({"serial": "SN\x00-1"}, {"serial": "SN-1", "hardware": "\x1b[2J"}, {"nonce": "a\nb"}):
        assert (await ask(api.registry, claim, **bad)).reason == "bad_request", bad


async def test_claims_by_the_hundred(api: Api, database: Database) -> None:
    made = (await make(api, count=250, template={"tags": ["batch-1"]}))["items"]
    assert len({one["id"] for one in made}) == len({one["token"] for one in made}) == 250
    seen: list[str] = []
    cursor = ""
    while True:
        listed = (await api.viewer.get(f"claims?limit=100{cursor}")).json()
        seen += [one["id"] for one in listed["items"]]
        if listed["next"] is None:
            break
        cursor = f"&cursor={listed['next']}"
    assert sorted(seen) == sorted(one["id"] for one in made)
    assert len(seen) == 250
    assert not any("token" in one for one in listed["items"])
    assert database.value("SELECT count(*) FROM registry.audit WHERE action = 'claim.create'") == 1
    assert (await api.operator.post("claims", json={"count": 2, "device": "van-7"})).status_code == 422
    assert (await api.operator.post("claims", json={"count": 1001})).status_code == 422
    assert (await api.viewer.get("claims?cursor=WyJ4IiwieSJd")).status_code == 422


async def test_claims_of_another_tenant_do_not_exist(api: Api) -> None:
    claim = await make(api)
    assert (await api.other.get(f"claims/{claim['id']}")).status_code == 404
    assert (await api.other.delete(f"claims/{claim['id']}")).status_code == 404
    assert (await api.other.get("claims")).json()["items"] == []
    assert (await api.viewer.post("claims", json={})).status_code == 403
    assert (await api.nobody.get("claims")).status_code == 401


async def test_enrolment_over_https(api: Api) -> None:
    claim = await make(api, device="van-7")
    asked = {"claim": claim["id"], "token": claim["token"], "serial": "SN-1"}
    answer = await api.nobody.post("enrol", json=asked)
    assert answer.status_code == 200, answer.text
    assert answer.json()["secret"] == device_secret(KEYS, "van-7", 1)
    assert (await api.nobody.post("enrol", json=asked)).json() == answer.json()
    another = await api.nobody.post("enrol", json=asked | {"serial": "SN-2"})
    assert (another.status_code, another.json()["reason"]) == (403, "already_used")
    waiting = await make(api, approval=True)
    pending = await api.nobody.post(
        "enrol", json={"claim": waiting["id"], "token": waiting["token"], "nonce": "abcd1234"}
    )
    assert (pending.status_code, pending.json()["status"]) == (202, "pending")


async def test_a_wrong_token_is_refused_and_counted(api: Api, database: Database) -> None:
    claim, other = await make(api), await make(api)
    wrong = {"claim": claim["id"], "token": other["token"], "serial": "SN-1"}
    unknown = {"claim": "abcdefghijkl", "token": other["token"], "serial": "SN-1"}
    answers = [await api.nobody.post("enrol", json=body) for body in (wrong, unknown)]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert answers[0].json()["detail"] == answers[1].json()["detail"], "whether a claim exists is not told"
    for _ in range(60):
        last = await api.nobody.post("enrol", json=wrong)
    assert last.status_code == 429
    assert int(last.headers["retry-after"]) > 0
    assert database.value("SELECT count(*) FROM registry.device") == 0


async def test_the_answer_to_a_removed_or_revoked_device_is_no_secret(api: Api) -> None:
    removed, revoked = await make(api, device="van-1"), await make(api, device="van-2")
    for claim in (removed, revoked):
        assert (await ask(api.registry, claim, serial="SN-1")).status == "accepted"
    await api.operator.delete("devices/van-1")
    await api.operator.post("devices/van-2/credentials/revoke")
    for claim in (removed, revoked):
        assert (await ask(api.registry, claim, serial="SN-1")).reason == "gone"


async def test_an_id_that_is_used_again_never_gets_an_old_secret(api: Api) -> None:
    assert (await ask(api.registry, await make(api, device="van-7"), serial="SN-1")).generation == 1
    await api.operator.delete("devices/van-7")
    reply = await ask(api.registry, await make(api, device="van-7"), serial="SN-1")
    assert reply.generation == 2
    assert reply.secret != device_secret(KEYS, "van-7", 1)
