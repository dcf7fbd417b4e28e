"""The story of one upload: who sends it → is there room → its number → published in the device's name → its ack → 202.

And the query API beside it. Runs in any number of replicas: an upload is in hand of the one it came to, what must outlive
it is in PostgreSQL.
"""

from __future__ import annotations

from outrider.runtime.http import HttpServer, Listen
from outrider.runtime.service import Chassis, Service
from outrider_gateway.access import Access
from outrider_gateway.api import build_api
from outrider_gateway.context import Gateway
from outrider_gateway.limits import InHand
from outrider_gateway.queries import Queries
from outrider_gateway.settings import Settings
from outrider_gateway.uploads import Uploads

GROUP = "gateway"


async def build(chassis: Chassis[Settings]) -> None:
    """Wire the service: settings → keys, uploads → HTTP."""
    settings, database = chassis.settings, chassis.database
    server = HttpServer(
        Listen(
            "OUTRIDER_GATEWAY",
            settings.gateway_http_host,
            settings.gateway_http_port,
            settings.gateway_tls_certificate,
            settings.gateway_tls_key,
            settings.gateway_trusted_proxies,
        )
    )
    access = Access(database, settings.database_url, settings.gateway_key_cache_s, settings.gateway_failed_keys)
    in_hand = InHand(
        settings.gateway_device_in_hand,
        settings.gateway_tenant_in_hand,
        settings.gateway_process_in_hand,
        settings.gateway_in_hand_max_bytes,
    )
    uploads = Uploads(
        settings.broker_url,
        database,
        in_hand,
        replica=settings.replica,
        ack_timeout_s=settings.gateway_ack_timeout_s,
        give_up_s=settings.gateway_give_up_s,
    )
    queries = Queries(settings, database)
    url = (settings.gateway_url or server.url).rstrip("/")
    server.app = build_api(Gateway(settings, database, access, uploads, queries, url))
    chassis.health.checks["http"] = server.problem
    chassis.health.checks["broker"] = uploads.link.problem
    chassis.health.checks["keys"] = access.problem
    chassis.run_beside("keys", access.listen)
    chassis.run_beside("changes", queries.listen)
    chassis.run_beside("uploads", lambda: uploads.run(server.run))


service = Service(GROUP, Settings, build, __doc__ or "", database_sessions=12)
