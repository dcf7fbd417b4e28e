"""Settings of ingest."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from outrider.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """What ingest reads from the environment beside the settings of every service."""

    ingest_slots: int = Field(
        4,
        ge=1,
        le=256,
        description="Slots of the group when it first starts; `outrider slots` changes their number later.",
    )
    ingest_batch_max_messages: int = Field(
        500, ge=1, description="Device messages handled together; more is faster under load and redone when one fails."
    )
    ingest_batch_max_age_s: float = Field(
        0.02, ge=0, description="Longest wait to fill a batch; it adds to the time until the application ack."
    )
    ingest_receive_maximum: int = Field(
        1_000,
        ge=1,
        le=65_535,
        description="Device messages in hand per slot; in_hand_max_bytes bounds their bytes whatever their size.",
    )
    ingest_anchor_cache: int = Field(
        100_000, ge=1, description="Boot anchors kept in memory; beyond it they are looked up again."
    )
    ingest_directory: Literal["registry", "none"] = Field(
        "registry",
        description="registry: only enabled devices that are registered, each under its own tenant. none: whoever the "
        "broker lets in, under any tenant; for an ingest without a registry, whose broker alone says who is who.",
    )
