"""The archive: what expires leaves the database as encrypted Parquet files, one a tenant, day and table, or more.

A file is complete, read back and compared before its rows may go; each step can be cut short and repeated:

    writing ──▶ complete ──▶ doomed (an erasure wrote it anew without a device) ──▶ gone
       └──────────────────────▲ (a crash)
"""

from __future__ import annotations

from outrider.runtime.errors import OutriderError
from outrider.runtime.settings import BAD_SETTINGS_EXIT_CODE
from outrider_lifecycle.archive.keeper import Archive
from outrider_lifecycle.archive.tasks import jobs
from outrider_lifecycle.context import Lifecycle

__all__ = ["Archive", "configured", "jobs"]


def configured(lifecycle: Lifecycle) -> Archive | None:
    """The archive of the settings, which from now on sees what expires and what comes late; None where there is none.

    Exits as with bad settings where folder or keys cannot be used.
    """
    try:
        archive = Archive.of(lifecycle)
    except OutriderError as error:
        print(f"The archive cannot be used. {error}", flush=True)
        raise SystemExit(BAD_SETTINGS_EXIT_CODE) from None
    if archive is not None:
        lifecycle.before_drop.append(archive.before_drop)
        lifecycle.on_late.append(archive.on_late)
    return archive
