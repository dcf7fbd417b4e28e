"""Settings of the registry."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from outrider.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """What the registry reads from the environment beside the settings of every service."""

    master_key: SecretStr | None = Field(
        None, description="Master keys as `id:base64`, comma separated, the newest first. There is no default."
    )
    master_key_file: Path | None = Field(
        None, description="File with them instead, one a line (`outrider key new`), readable by the registry only."
    )
    registry_http_host: str = Field("127.0.0.1", description="Address of the REST API and the console.")
    registry_http_port: int = Field(8080, ge=0, le=65535, description="Their port; 0 takes a free one and logs it.")
    registry_url: str = Field(
        "", description="Where people reach the console (https://fleet.example.org), for links; empty: host and port."
    )
    registry_tls_certificate: Path | None = Field(
        None, description="Certificate chain for HTTPS (PEM); empty: HTTP, for a proxy."
    )
    registry_tls_key: Path | None = Field(None, description="Its private key (PEM).")
    registry_trusted_proxies: str = Field(
        "",
        description="Addresses or networks of proxies whose X-Forwarded-For and -Proto are believed, comma separated; "
        "empty: none.",
    )
    device_mqtt_url: str = Field(
        "mqtt://127.0.0.1:1884",
        description="The broker's listener for devices, as devices reach it: printed at enrolment.",
    )
    device_certificate_mqtt_url: str = Field(
        "",
        description="The broker's listener for devices with client certificates, as they reach it; empty: device_mqtt_url.",
    )
    tls_folder: Path | None = Field(
        None,
        description="Folder of the broker's certificates: crl.pem there follows revocations (the broker reads it on SIGHUP).",
    )
    dynsec_file: Path | None = Field(
        None,
        description="The broker's dynamic-security.json where the registry can see it: its loss is noticed while the broker runs.",
    )
    reconcile_interval_s: float = Field(
        30.0, gt=0, description="How often the broker's identities are compared with the database, all of them."
    )
    broker_keep_accounts: str = Field(
        "",
        description="User names at the broker that others manage (a bridge, an exporter), comma separated, with roles of the "
        "same names; whoever else the registry does not know is removed.",
    )
    credential_rotation_days: float = Field(90.0, gt=0, description="Age at which a device gets a new secret.")
    credential_grace_days: float = Field(
        30.0, gt=0, description="How long the old secret still works while a device has not confirmed the new one."
    )
    claim_hours: float = Field(24.0, gt=0, description="How long a claim token can be used unless it says otherwise.")
    session_hours: float = Field(12.0, gt=0, description="How long a sign-in to the console lasts.")
    sign_in_attempts: int = Field(
        10, ge=1, description="Failed sign-ins of one name or address in 15 minutes; then it must wait."
    )
    presence_silence_s: float = Field(
        90.0,
        gt=0,
        description="A device that was kicked or says it is online, and is silent for so long, is asked about.",
    )
    map_tiles: str = Field(
        "",
        pattern=r"^(https?://[^\s;,'\"]+)?$",
        description="Map tiles for the console (https://tiles.example.org/{z}/{x}/{y}.png); empty: its own outlines, no internet.",
    )
    map_attribution: str = Field("", description="What the provider of the tiles wants to be named as, on the map.")
