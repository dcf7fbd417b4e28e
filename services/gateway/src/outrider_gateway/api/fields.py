"""Parameters that many questions have."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from pydantic import StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""A device's name, as in topics."""
TIME = "ISO 8601 (UTC where it names no zone), epoch seconds or milliseconds, `now`, or back from now as -6h."
Since = Annotated[
    str | None, Query(alias="from", max_length=64, description=f"{TIME} An hour before `to` where it is not given.")
]
Until = Annotated[str | None, Query(alias="to", max_length=64, description=f"{TIME} Now where it is not given.")]
OptionalFormat = Annotated[
    str | None, Query(max_length=20, description="Instead of the header Accept, for browsers and spreadsheets.")
]
Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.:-]{0,62}$")]
"""A tag or type."""
