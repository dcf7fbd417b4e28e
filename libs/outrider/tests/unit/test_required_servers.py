"""OUTRIDER_REQUIRE_SERVERS names the servers whose absence is a failure."""

import pytest

from outrider.testing.fixtures import required_servers, unavailable


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("", set()),
        ("0", set()),
        ("1", {"mosquitto", "postgresql"}),
        ("timescaledb", {"timescaledb"}),
        ("1, TimescaleDB ,loki,", {"mosquitto", "postgresql", "timescaledb", "loki"}),
    ],
)
def test_names(value: str, names: set[str]) -> None:
    assert required_servers(value) == names


def test_what_is_required_fails_and_the_rest_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_REQUIRE_SERVERS", "timescaledb")
    with pytest.raises(pytest.fail.Exception, match="TimescaleDB is required"):
        unavailable("TimescaleDB", RuntimeError("no apt"))
    with pytest.raises(pytest.skip.Exception, match="no apt"):
        unavailable("PostgreSQL", RuntimeError("no apt"))
