"""What `outrider doctor` asks about identities: does the broker let anybody in, do its accounts agree, what runs out soon?"""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from cryptography import x509

from outrider.access import authority, seed
from outrider.access.bootstrap import DEFAULT_ACCESS, services, username_of
from outrider.access.keys import BadMasterKey, KeyRing
from outrider.runtime.errors import Transient
from outrider.runtime.mqtt import Connection
from outrider_cli import accounts
from outrider_cli.doctor_checks import Check, Level, judge, metrics_of
from outrider_cli.state import State

RECONCILED = "outrider_registry_broker_reconciled_timestamp_seconds"
QUEUE = "outrider_registry_broker_queue"
CLIENTS = "outrider_registry_broker_clients"
RECONCILE_WARN_S = 120.0
"""Several times the registry's OUTRIDER_RECONCILE_INTERVAL_S."""
OLD_KEYS = """
SELECT count(*) FROM registry.credential WHERE state IN ('active', 'delivered') AND NOT key_id = ANY (%s)
"""
OVERDUE = """
SELECT count(*) FROM registry.credential c JOIN registry.device d ON d.id = c.device
WHERE c.state = 'active' AND d.status = 'active' AND c.rotates_at < now() - interval '1 day'
"""


async def check_doors(services_url: str, device_url: str = "") -> list[Check]:
    """Nobody comes in without a login, at either door."""
    checks = [await _is_closed("services", accounts.without_account(services_url))]
    if device_url:
        checks.append(await _is_closed("devices", device_url))
    return checks


async def _is_closed(whose: str, url: str) -> Check:
    name = f"broker door of {whose}"
    try:
        connection = await Connection.open(
            url, "", lambda _: None, clean_start=True, session_expiry_s=0, receive_maximum=10, timeout_s=5
        )
    except Transient as error:
        if "refused" in str(error):
            return Check(name, Level.OK, "nobody is anonymous")
        return Check(name, Level.WARN, str(error), "Is the broker's address right?")
    await connection.close(end_session=True)
    return Check(
        name,
        Level.FAIL,
        "lets anybody in without a login",
        "Set allow_anonymous false and load the dynamic-security plugin: mosquitto/mosquitto.conf shows how.",
    )


def check_accounts(state: State) -> Iterator[Check]:
    """The broker's file of accounts, the registry's reconcile, keys and certificates of a running platform."""
    path = state.data_dir / "mosquitto" / "dynamic-security.json"
    if "mosquitto" in state.servers:
        yield from check_file(path)
    yield from _registry(state)
    yield from _keys(state)
    if state.tls_folder is not None:
        yield from check_certificates(state.tls_folder)


def check_file(path: Path) -> Iterator[Check]:
    """The plugin's file as it lies there."""
    document, problem = seed.read(str(path))
    if document is None:
        yield Check(
            "broker accounts",
            Level.FAIL,
            f"{path}: {problem}",
            "The registry writes it again within a minute; if it does not, see `outrider doctor` on the registry.",
        )
        return
    names = set(seed.usernames(document))
    missing = sorted(name for name in map(username_of, services()) if name not in names)
    yield judge(
        "broker accounts",
        not missing,
        f"{len(names):,} accounts" + (f", without {', '.join(missing)}" if missing else ""),
        "Restart the broker (`outrider service restart mosquitto`): the services' accounts are put in before it starts.",
    )
    access: Any = document.get("defaultACLAccess")
    yield judge(
        "broker default access",
        access == DEFAULT_ACCESS,
        "everything is denied" if access == DEFAULT_ACCESS else json.dumps(access),
        "Restart the broker: all four default accesses must deny, or devices read each other.",
    )
    yield judge(
        "broker accounts file",
        not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO),
        f"mode {stat.S_IMODE(path.stat().st_mode):o}",
        f"chmod 600 {path}: it holds password hashes.",
        Level.WARN,
    )


def _registry(state: State) -> Iterator[Check]:
    """Of several replicas one reconciles, and says when."""
    ports = [process.http_port for process in state.services.values() if process.service == "registry"]
    found = [metrics for port in ports if port for metrics in [metrics_of(port)] if metrics.get(RECONCILED)]
    times = [sample.value for metrics in found for sample in metrics[RECONCILED] if sample.value]
    if not times:
        yield Check(
            "broker reconcile",
            Level.WARN,
            "no registry says that it compared the broker's accounts",
            "Start it (`outrider scale registry=1`): new devices are not let in, disabled ones not thrown out.",
        )
        return
    age_s = time.time() - max(times)
    waiting = sum(int(sample.value) for metrics in found for sample in metrics.get(QUEUE, []))
    counts = {sample.labels["state"]: int(sample.value) for metrics in found for sample in metrics.get(CLIENTS, [])}
    shown = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    yield judge(
        "broker reconcile",
        age_s < RECONCILE_WARN_S,
        f"all accounts right {age_s:.0f} s ago, {waiting:,} waiting" + (f" ({shown})" if shown else ""),
        "See the registry's log for broker_…: until then new devices wait and disabled ones stay.",
        Level.WARN,
    )


def _keys(state: State) -> Iterator[Check]:
    file = state.master_key_file
    if file is not None:
        try:
            keys = KeyRing.load(None, file)
        except BadMasterKey as error:
            yield Check(
                "master key", Level.FAIL, str(error), "Without it no device can be enrolled: restore your copy."
            )
            return
        open_to_others = file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        yield judge(
            "master key",
            not open_to_others,
            f"{file}: {', '.join(keys.ids)}, for its owner only"
            if not open_to_others
            else f"{file} can be read by others",
            f"chmod 600 {file}, and keep a copy apart from the database's backups.",
        )
        with suppress(psycopg.Error), psycopg.connect(state.database_url, connect_timeout=5) as connection:
            connection.execute("SELECT set_config('outrider.tenant', '*', true)")
            row = connection.execute(OLD_KEYS.encode(), (keys.ids,)).fetchone()
            lost = int(row[0]) if row else 0
            yield judge(
                "secrets' keys",
                lost == 0,
                f"{lost:,} secrets come from a key that is not there" if lost else "all are there",
                "Add the old key's line below the newest one; it can go when nothing is derived from it any more.",
            )
            overdue = int((connection.execute(OVERDUE.encode()).fetchone() or (0,))[0])
            yield judge(
                "secrets' age",
                overdue == 0,
                f"{overdue:,} are past the day of their rotation" if overdue else "none is past its rotation",
                "Those devices are away or do not confirm: `outrider device credentials DEVICE` shows since when.",
                Level.WARN,
            )
    with suppress(psycopg.Error):
        unknown = accounts.unregistered(state.database_url)
        yield judge(
            "registered devices",
            unknown == 0,
            f"{unknown:,} devices in the database are not registered" if unknown else "all that have data",
            "The broker refuses them: `outrider device adopt` registers them.",
            Level.WARN,
        )


def check_certificates(folder: Path, now: datetime | None = None) -> Iterator[Check]:
    """The server's certificate and the list of revoked ones run out not too soon."""
    now = now or datetime.now(UTC)
    ends: dict[str, datetime] = {}
    with suppress(OSError, ValueError):
        certificate = x509.load_pem_x509_certificate((folder / authority.CERTIFICATE_FILE).read_bytes())
        ends["certificate of the broker"] = certificate.not_valid_after_utc
    with suppress(OSError, ValueError):
        updates = x509.load_pem_x509_crl((folder / authority.CRL_FILE).read_bytes()).next_update_utc
        if updates is not None:
            ends["list of revoked certificates"] = updates
    for name in ("certificate of the broker", "list of revoked certificates"):
        if name not in ends:
            yield Check(name, Level.FAIL, f"not in {folder}", "Restart the platform: it writes them at its start.")
            continue
        left = ends[name] - now
        yield judge(
            name,
            left > authority.RENEW_BEFORE,
            f"good until {ends[name]:%Y-%m-%d}",
            "Restart the platform: it renews what ends within a month.",
            Level.FAIL if left.total_seconds() < 0 else Level.WARN,
        )
