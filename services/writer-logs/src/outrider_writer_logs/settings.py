"""Settings of writer-logs."""

from __future__ import annotations

from pydantic import Field

from outrider.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """What writer-logs reads from the environment beside the settings of every service."""

    logs_slots: int = Field(
        4,
        ge=1,
        le=256,
        description="Slots (= log shards) of the group when it first starts; `outrider slots` changes their number later.",
    )
    logs_batch_max_messages: int = Field(64, ge=1, description="Bus batches in one transaction.")
    logs_batch_max_age_s: float = Field(0.05, ge=0, description="Longest wait to fill a transaction.")
