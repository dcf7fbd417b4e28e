"""Erased devices stay erased: nothing of them is kept as rejected, and what every schema has of them goes in one call."""

from __future__ import annotations

from outrider.testing.fixtures import Database

KEEP = (
    "SELECT rejected.keep(ARRAY['acme', 'acme'], ARRAY['van-1', 'van-2'], ARRAY['telemetry', 'telemetry'],"
    " ARRAY[7, 7]::bigint[], ARRAY[%s, %s]::bigint[], ARRAY['not_json', 'not_json'], ARRAY['', ''], ARRAY['t', 't'],"
    " ARRAY['ab'::bytea, 'abc'], ARRAY[now(), now()], 'test')"
)
BUS = (
    "SELECT rejected.keep(ARRAY['-'], ARRAY['-'], ARRAY['-'], ARRAY[NULL]::bigint[], ARRAY[NULL]::bigint[], ARRAY['x'],"
    " ARRAY[''], ARRAY['outrider/v1/samples/0'], ARRAY[convert_to(%s, 'UTF8')], ARRAY[now()], 'test')"
)


def test_nothing_refused_of_an_erased_device_is_kept(database: Database) -> None:
    assert database.value(KEEP, 1, 1) == 2
    database.rows(BUS, '[["acme","van-1"]]')
    database.rows(BUS, '[["acme","van-10"]]')
    before = database.value("SELECT number FROM runtime.tombstone_version")
    database.rows("INSERT INTO runtime.tombstone (device, tenant) VALUES ('van-1', 'acme')")
    assert database.value("SELECT number FROM runtime.tombstone_version") == before + 1
    erased = "SELECT rejected.erase_device('acme', 'van-1')"
    assert database.value(erased) == {"message": 1, "unreadable bus batches": 1}
    assert database.value(erased) == {"message": 0, "unreadable bus batches": 0}
    assert database.value(KEEP, 2, 2) == 1
    assert database.rows("SELECT device, count(*) FROM rejected.message GROUP BY 1 ORDER BY 1") == [
        ("-", 1),
        ("van-2", 2),
    ]
    assert database.rows("SELECT reason, messages, bytes FROM rejected.overflow") == [("erased", 1, 2)]
    assert database.rows("SELECT device, messages FROM rejected.usage ORDER BY 1") == [("-", 1), ("van-2", 2)]
