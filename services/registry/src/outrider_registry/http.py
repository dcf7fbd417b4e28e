"""The registry's HTTP server, as its settings say."""

from __future__ import annotations

from outrider.runtime import http
from outrider.runtime.http import Listen
from outrider_registry.settings import Settings


class HttpServer(http.HttpServer):
    """Serves REST API and console."""

    def __init__(self, settings: Settings) -> None:
        """Exits with a sentence when the address cannot be had, or one of certificate and key is missing."""
        super().__init__(
            Listen(
                "OUTRIDER_REGISTRY",
                settings.registry_http_host,
                settings.registry_http_port,
                settings.registry_tls_certificate,
                settings.registry_tls_key,
                settings.registry_trusted_proxies,
            )
        )
