"""Settings of lifecycle."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from outrider.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """What lifecycle reads from the environment beside the settings of every service."""

    rollup_grace_s: float = Field(
        30.0,
        ge=0,
        description="Five minutes are rolled up so long after their end; longer spares a second time for what comes late.",
    )
    rollup_step_series: int = Field(
        20_000,
        ge=100,
        description="Five minutes of one series in one transaction of the rollups; more is a little cheaper.",
    )
    retention_interval_s: float = Field(
        3600.0,
        gt=0,
        description="How often it is looked for rows whose time is over; they are kept by whole days (UTC).",
    )
    partitions_ahead_days: int = Field(
        7, ge=1, le=60, description="Partitions are made so many days before they are needed."
    )
    archive_url: str = Field(
        "",
        description="Where what expires is archived: file:///a/folder or s3://bucket/prefix; empty: nowhere, it is removed.",
    )
    archive_encryption: Literal["age", "none"] = Field(
        "age", description="age encrypts every file; none leaves them for everybody who reaches the folder to read."
    )
    archive_identity_file: Path | None = Field(
        None,
        description="Secret age keys that read the archive, one a line; made at the first start if there is no recipient. "
        "Keep a copy elsewhere.",
    )
    archive_recipients_file: Path | None = Field(
        None,
        description="Public age keys (age1…) that new files are also encrypted to, one a line; with these alone lifecycle "
        "writes what it cannot read.",
    )
    archive_part_rows: int = Field(
        1_000_000, ge=1, description="Rows of one file at most; more take more memory, about 100 bytes a row."
    )
    archive_s3_endpoint: str = Field(
        "", description="Address of an S3-compatible store (https://s3.example.org); empty: Amazon's."
    )
    archive_s3_region: str = Field("", description="Its region, where it has any.")
    archive_s3_access_key: str = Field("", description="Access key; empty: as the machine's own environment says.")
    archive_s3_secret_key_file: Path | None = Field(None, description="File with the secret key that belongs to it.")
    erase_settle_s: float = Field(
        60.0,
        ge=0,
        description="An erasure looks once more after so long, for what was on its way, and again until it finds nothing.",
    )
    storage_interval_s: float = Field(
        300.0, gt=0, description="How often the sizes of tables and devices are looked at."
    )
    storage_disk_path: Path | None = Field(
        None, description="A folder on PostgreSQL's disk that lifecycle can see: for the forecast of when it is full."
    )
    storage_capacity_bytes: int = Field(
        0, ge=0, description="Bytes that the database may take, for the same forecast; 0: what is free on that disk."
    )
