"""A broken build: DO NOTHING on conflict and not a word about it. Put on PYTHONPATH by a test."""

import outrider_writer_timeseries.samples as samples

samples.CONFLICTS = "SELECT n, value FROM pg_temp.staging_{table} WHERE false AND '{table}' <> ''"
