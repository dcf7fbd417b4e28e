"""Settings of the gateway."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from outrider.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """What the gateway reads from the environment beside the settings of every service."""

    gateway_http_host: str = Field("127.0.0.1", description="Address of the API.")
    gateway_http_port: int = Field(8081, ge=0, le=65535, description="Its port; 0 takes a free one and logs it.")
    gateway_url: str = Field(
        "",
        description="Where devices and programs reach it (https://data.example.org), for links; empty: host and port.",
    )
    gateway_tls_certificate: Path | None = Field(
        None, description="Certificate chain for HTTPS (PEM); empty: HTTP, for a proxy or load balancer."
    )
    gateway_tls_key: Path | None = Field(None, description="Its private key (PEM).")
    gateway_trusted_proxies: str = Field(
        "",
        description="Addresses or networks of proxies whose X-Forwarded-For and -Proto are believed, comma separated; "
        "empty: none.",
    )
    gateway_ack_timeout_s: float = Field(
        10.0, gt=0, description="How long an upload waits for its ack before it is answered with 503."
    )
    gateway_give_up_s: float = Field(
        3600.0,
        gt=0,
        description="How long an upload that was answered with 503 is sent again; then its number is declared gone.",
    )
    gateway_device_in_hand: int = Field(
        64, ge=1, description="Uploads of one device that may wait for their acks at once; more get 429."
    )
    gateway_tenant_in_hand: int = Field(1000, ge=1, description="The same for all devices of a tenant.")
    gateway_process_in_hand: int = Field(2000, ge=1, description="The same for this process, whoever sent them.")
    gateway_in_hand_max_bytes: int = Field(
        64 * 1024 * 1024, ge=1024 * 1024, description="Bytes of uploads that may wait for their acks in this process."
    )
    gateway_key_cache_s: float = Field(
        1800.0,
        ge=0,
        description="How long a checked key or token is known without another look; changes in the registry are heard at once.",
    )
    gateway_failed_keys: int = Field(
        30,
        ge=1,
        description="Wrong keys from one address in 5 minutes; then only keys known to be good pass from there.",
    )
    gateway_query_timeout_s: float = Field(
        10.0, gt=0, description="What reading a page of a question may take; then the asker is told to ask for less."
    )
    gateway_queries_at_once: int = Field(
        6, ge=1, description="Questions read from the database at the same time; others wait for their turn."
    )
    gateway_cache_url: str = Field(
        "",
        description="Valkey that replicas share cached answers in (valkey://10.0.0.5:6379/0); empty: each process its own.",
    )
    gateway_cache_max_bytes: int = Field(
        64 * 1024 * 1024, ge=0, description="Cached answers in this process, while there is no Valkey."
    )
    gateway_cache_status_s: float = Field(
        300.0, ge=0, description="How long a device's latest values are cached while nothing came of it; 0: not at all."
    )
    gateway_cache_recent_s: float = Field(
        60.0,
        ge=0,
        description="How long answers are cached that include the last ten minutes, or many devices' latest values.",
    )
    gateway_cache_aggregates_s: float = Field(
        900.0, ge=0, description="How long aggregates of the past are cached; late data is heard when it is rolled up."
    )
