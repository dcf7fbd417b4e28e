"""The archive: what expires leaves the database as encrypted Parquet files, one a tenant, day and table, or more.

A file is complete, read back and compared before its rows may go; each step can be cut short and repeated:

    writing ──▶ complete ──▶ doomed (an erasure wrote it anew without a device) ──▶ gone
       └──────────────────────▲ (a crash)
"""

from outrider_lifecycle.archive.keeper import Archive
from outrider_lifecycle.archive.tasks import jobs

__all__ = ["Archive", "jobs"]
