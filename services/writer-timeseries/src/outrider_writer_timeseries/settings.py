"""Settings of writer-timeseries."""

from __future__ import annotations

from pydantic import Field

from outrider.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """What writer-timeseries reads from the environment beside the settings of every service."""

    writer_slots: int = Field(
        4,
        ge=1,
        le=256,
        description="Slots (= shards of the bus) of the group when it first starts; `outrider slots` changes their number later.",
    )
    writer_batch_max_messages: int = Field(
        64, ge=1, description="Bus batches in one transaction; more is faster under load and redone when one fails."
    )
    writer_batch_max_age_s: float = Field(
        0.02, ge=0, description="Longest wait to fill a transaction; it adds to the time until the application ack."
    )
    writer_series_cache: int = Field(
        12_000_000,
        ge=1_000,
        description="Memory for series ids, in units of 8 bytes: a device takes about 80 and one for each of its series "
        "(many more where devices have names of their own for their metrics). Beyond it they are looked up again.",
    )
