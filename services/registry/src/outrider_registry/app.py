"""The registry: who a device is, what it may do, how it is configured.

REST API and console run in every replica. What must be done once (device messages of the control plane, the broker's
identities, commands going out) is done by the one replica that attends the slot; another one stands by.
"""

from __future__ import annotations

from collections.abc import Sequence

from outrider.access.keys import BadMasterKey, KeyRing
from outrider.runtime.consumer import ConsumerSettings
from outrider.runtime.mqtt import Delivery
from outrider.runtime.service import Chassis, Service
from outrider.runtime.settings import BAD_SETTINGS_EXIT_CODE
from outrider.runtime.slots import Lease
from outrider_registry import broker, control, housekeeping
from outrider_registry.api import build_api
from outrider_registry.context import Registry
from outrider_registry.http import HttpServer
from outrider_registry.leader import Leader
from outrider_registry.settings import Settings

GROUP = "registry"


async def build(chassis: Chassis[Settings]) -> None:
    """Wire the service: settings → keys → HTTP, slot, leader."""
    settings = chassis.settings
    try:
        secret = settings.master_key.get_secret_value() if settings.master_key else None
        keys = KeyRing.load(secret, settings.master_key_file)
    except BadMasterKey as error:
        print(f"The registry has no usable master key. {error}", flush=True)
        raise SystemExit(BAD_SETTINGS_EXIT_CODE) from None
    server = HttpServer(settings)
    url = (settings.registry_url or server.url).rstrip("/")
    registry = Registry(settings, chassis.database, keys, chassis.publisher, url)
    server.app = build_api(registry)
    duties = [*broker.duties(registry), *control.duties(registry), *housekeeping.duties(registry)]

    async def handle(lease: Lease, deliveries: Sequence[Delivery]) -> None:
        await control.handle(registry, deliveries)

    chassis.consume(
        ConsumerSettings(
            group=GROUP,
            slots=1,
            batch_max_messages=500,
            batch_max_bytes=4 * 1024 * 1024,
            batch_max_age_s=0.05,
            receive_maximum=1000,
        ),
        filters=lambda slot: list(control.FILTERS),
        handle=handle,
    )
    slots = chassis.consumers[-1].slots
    leader = Leader(settings.database_url, chassis.database.application_name, duties, lambda: bool(slots.held))
    chassis.health.checks["http"] = server.problem
    chassis.health.checks["leader"] = leader.problem
    chassis.run_beside("http", server.run)
    chassis.run_beside("leader", leader.run)


service = Service(GROUP, Settings, build, __doc__ or "", database_sessions=12)
