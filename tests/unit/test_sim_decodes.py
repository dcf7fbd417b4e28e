"""What the simulator writes is what ingest reads: every encoding, with and without a clock, decodes to its rows."""

from __future__ import annotations

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import given

from outrider.device.outbox import Outbox
from outrider_cli.sim.encodings import NUMBERED, Encoding, Frame, document_of, encoder_of
from outrider_cli.sim.plan import fleet
from outrider_ingest.formats import decode_telemetry

values = st.one_of(
    st.floats(-1e9, 1e9), st.integers(-(2**40), 2**40), st.booleans(), st.text("abc xyz", min_size=1, max_size=8)
)
metrics = st.dictionaries(st.sampled_from(["speed_kmh", "temp_c", "gear", "on", "n_1"]), values, min_size=1)


@st.composite
def frames(draw: st.DrawFn, start_ms: int) -> list[Frame]:
    """1 to 5 instants with growing times."""
    time_ms = start_ms
    found = []
    for content in draw(st.lists(metrics, min_size=1, max_size=5)):
        time_ms += draw(st.integers(1, 100_000))
        found.append(Frame(time_ms, content))
    return found


def _decoded(encoding: Encoding, instants: list[Frame], *, clockless: bool) -> None:
    outbox = Outbox(boot=2**53 - 1, now_s=0)
    message = outbox.add(
        "telemetry",
        document_of(encoding, instants, clockless=clockless),
        clockless=clockless,
        encode=encoder_of(encoding),
    )
    [out] = outbox.due(10_000)
    decoded = decode_telemetry(out.payload)
    assert not decoded.refused
    assert (decoded.boot, decoded.seq) == (message.boot, message.seq)
    assert decoded.now_ms == (10_000_000 if clockless else None)
    found = {(metric, up_ms if clockless else ts): (type(value), value) for metric, ts, up_ms, value in decoded.samples}
    expected = {
        (name, frame.time_ms): (type(value), value) for frame in instants for name, value in frame.values.items()
    }
    assert {key: value for key, (_, value) in found.items()} == {key: value for key, (_, value) in expected.items()}
    assert all((found[key][0] is bool) == (expected[key][0] is bool) for key in expected)


@pytest.mark.parametrize("encoding", NUMBERED)
@given(instants=frames(1_750_000_000_000))
def test_encoding_with_a_clock_decodes_to_its_rows(encoding: Encoding, instants: list[Frame]) -> None:
    _decoded(encoding, instants, clockless=False)


@pytest.mark.parametrize("encoding", NUMBERED)
@given(instants=frames(0))
def test_encoding_without_a_clock_decodes_to_its_rows(encoding: Encoding, instants: list[Frame]) -> None:
    _decoded(encoding, instants, clockless=True)


def test_every_device_of_a_fleet_measures_what_ingest_takes() -> None:
    for plan in fleet(30, 30, seed=7):
        for elapsed_s in (0.0, 1.0, 400.0, 20_000.0):
            content = plan.source.values(elapsed_s)
            assert not decode_telemetry(orjson.dumps({"ts": 1_750_000_000_000, **content})).refused
