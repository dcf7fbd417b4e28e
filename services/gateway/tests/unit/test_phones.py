"""What apps for phones send becomes messages of the wire contract."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider_gateway.errors import Invalid
from outrider_gateway.phones import Message, device_of, osmand, owntracks, traccar

NOW_MS = 1_760_000_000_000
PLACE = {"lat": "48.2", "lon": "16.37"}
LOCATION = {"_type": "location", "lat": 48.2, "lon": 16.37, "tst": 1_760_000_000}


def telemetry(messages: list[Message]) -> dict[str, Any]:
    (message,) = messages
    assert message.stream == "telemetry"
    return message.document


def test_an_owntracks_location() -> None:
    found = telemetry(
        owntracks(
            LOCATION
            | {
                "vel": 50,
                "cog": 271,
                "acc": 12,
                "vac": 3,
                "alt": -4,
                "batt": 80,
                "bs": 1,
                "p": 101.3,
                "conn": "m",
                "t": "u",
            }
            | {"tid": "ab", "topic": "owntracks/x/y", "SSID": "home", "BSSID": "aa:bb", "created_at": 1_760_000_009}
        )
    )
    assert found == {
        "ts": NOW_MS,
        "lat": 48.2,
        "lon": 16.37,
        "speed_kmh": 50,
        "heading_deg": 271,
        "accuracy_m": 12,
        "vertical_accuracy_m": 3,
        "alt_m": -4,
        "battery_pct": 80,
        "battery_status": "1",
        "pressure_kpa": 101.3,
        "connection": "m",
        "trigger": "u",
    }


def test_an_owntracks_transition_is_an_event() -> None:
    (message,) = owntracks(
        {"_type": "transition", "event": "leave", "desc": "home", "lat": 1, "lon": 2, "acc": 5, "tst": 1_760_000_000.5}
    )
    assert message == (
        "event",
        {
            "ts": NOW_MS + 500,
            "type": "geofence",
            "transition": "leave",
            "zone": "home",
            "lat": 1,
            "lon": 2,
            "accuracy_m": 5,
        },
    )


@pytest.mark.parametrize("kind", ["lwt", "card", "cmd", "status", "configuration", "request", "something new"])
def test_owntracks_messages_that_say_nothing_about_the_phone(kind: str) -> None:
    assert owntracks({"_type": kind}) == []


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ([], "_type"),
        ({"lat": 1}, "_type"),
        ({"_type": "encrypted", "data": "…"}, "encryption off"),
        (LOCATION | {"lat": 90.1}, "lat, lon"),
        (LOCATION | {"lon": None}, "lat, lon"),
        (LOCATION | {"lon": True}, "lat, lon"),
        (LOCATION | {"tst": "now"}, "tst"),
        (LOCATION | {"tst": 0}, "tst"),
        ({"_type": "transition", "event": "enter"}, "tst"),
    ],
)
def test_owntracks_messages_that_cannot_be_taken(document: Any, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        owntracks(document)


def test_osmand_s_parameters() -> None:
    found = telemetry(
        osmand(
            PLACE
            | {
                "id": "van-7",
                "key": "secret",
                "password": "secret",
                "timestamp": "1760000000",
                "speed": "10",
                "bearing": "90",
            }
            | {
                "altitude": "170",
                "accuracy": "4.5",
                "hdop": "0.9",
                "batt": "55",
                "charge": "true",
                "driver": "ann",
                "fuel": "12",
            }
            | {"boot": "7", "seq": "9", "bad name": "x", "odometer_km": "NaN"},
            NOW_MS,
        )
    )
    assert found == {
        "ts": NOW_MS,
        "lat": 48.2,
        "lon": 16.37,
        "speed_kmh": 18.52,
        "heading_deg": 90,
        "alt_m": 170,
        "accuracy_m": 4.5,
        "hdop": 0.9,
        "battery_pct": 55,
        "charging": True,
        "driver": "ann",
        "fuel": 12,
        "odometer_km": "NaN",
    }


@pytest.mark.parametrize(
    ("timestamp", "ms"),
    [
        ("1760000000", NOW_MS),
        ("1760000000.25", NOW_MS + 250),
        ("1760000000000", NOW_MS),
        ("2025-10-09T08:53:20Z", NOW_MS),
        ("2025-10-09T10:53:20.5+02:00", NOW_MS + 500),
        ("2025-10-09 08:53:20", NOW_MS),
        ("", NOW_MS - 1),
        (None, NOW_MS - 1),
    ],
)
def test_times(timestamp: str | None, ms: int) -> None:
    given_ = PLACE | ({} if timestamp is None else {"timestamp": timestamp})
    assert telemetry(osmand(given_, NOW_MS - 1))["ts"] == ms


@pytest.mark.parametrize(("unit", "kmh"), [("kn", 18.52), ("kmh", 10), ("ms", 36), ("mph", 16.093)])
def test_units_of_speed(unit: str, kmh: float) -> None:
    assert telemetry(osmand(PLACE | {"speed": "10", "speed_unit": unit}, NOW_MS))["speed_kmh"] == kmh


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({}, "lat, lon"),
        ({"location": "1"}, "lat, lon"),
        (PLACE | {"lat": "nan"}, "lat, lon"),
        (PLACE | {"timestamp": "soon"}, "timestamp"),
        (PLACE | {"timestamp": "1e300"}, "timestamp"),
        (PLACE | {"speed": "1", "speed_unit": "c"}, "speed_unit"),
    ],
)
def test_parameters_that_cannot_be_taken(parameters: dict[str, str], why: str) -> None:
    with pytest.raises(Invalid, match=why):
        osmand(parameters, NOW_MS)


def test_an_alarm_is_an_event_too() -> None:
    position, alarm = osmand(PLACE | {"alarm": "sos"}, NOW_MS)
    assert (position.stream, "alarm" in position.document) == ("telemetry", False)
    assert alarm == ("event", {"ts": NOW_MS, "type": "alarm", "alarm": "sos", "lat": 48.2, "lon": 16.37})


def test_traccar_client_s_json() -> None:
    document = {
        "device_id": "van-7",
        "location": {
            "timestamp": "2025-10-09T08:53:20.000Z",
            "coords": {
                "latitude": 48.2,
                "longitude": 16.37,
                "accuracy": 5,
                "speed": 10,
                "heading": -1,
                "altitude": -3,
            },
            "is_moving": True,
            "odometer": 1234.5,
            "battery": {"level": 0.97, "is_charging": False},
            "activity": {"type": "in_vehicle"},
            "extras": {"alarm": "sos"},
        },
    }
    position, alarm = traccar(document)
    assert position.document == {
        "ts": NOW_MS,
        "lat": 48.2,
        "lon": 16.37,
        "speed_kmh": 36.0,
        "alt_m": -3.0,
        "accuracy_m": 5.0,
        "battery_pct": 97.0,
        "charging": False,
        "phone_odometer_km": 1.234,
        "moving": True,
        "activity": "in_vehicle",
    }
    assert (alarm.stream, alarm.document["alarm"]) == ("event", "sos")
    assert device_of(document) == "van-7"
    assert device_of({"device_id": 123456}) == "123456"
    assert device_of([]) is device_of({"device_id": True}) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["_type", "location", "coords", "lat", "lon", "tst", "timestamp", "latitude", "longitude", "battery"]
            )
            | st.text(max_size=4),
            inner | st.sampled_from(["location", "transition"]),
            max_size=5,
        )
    ),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(
    JSON,
    st.dictionaries(
        st.sampled_from(["lat", "lon", "timestamp", "speed", "x"]), st.text(max_size=6) | st.just("1"), max_size=5
    ),
)
def test_anything_is_either_messages_or_invalid(document: Any, parameters: dict[str, str]) -> None:
    for take in (lambda: owntracks(document), lambda: traccar(document), lambda: osmand(parameters, NOW_MS)):
        with contextlib.suppress(Invalid):
            assert all(message.payload().startswith(b"{") for message in take())
