"""The client: a method a question. Raises GatewayError with the server's own sentence, which says what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias
from urllib.parse import quote

import httpx

from outrider.client.model import Latest, Ranking, Table, Trip, TripDetail, TripFigures, time_of
from outrider.runtime.errors import OutriderError

Moment: TypeAlias = datetime | int | float | str | None
"""A time (of no zone: UTC), epoch ms or s, `2026-11-25T08:00:00Z`, `now`, `-6h`; None: as the API says."""
PREFIX = "/api/v1/"


class GatewayError(OutriderError):
    """The gateway did not answer the question; the text is its own sentence. `status` is 0 where it could not be reached."""

    def __init__(self, detail: str, status: int = 0, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.retry_after_s = retry_after_s


class Client:
    """Asks one gateway, with a token of the registry. Safe for use from several threads at once."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        tenant: str | None = None,
        timeout_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`tenant`: the one to work in, which administrators of the platform must name."""
        headers = {"authorization": f"Bearer {token}"} | ({"outrider-tenant": tenant} if tenant else {})
        self._url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self._url + PREFIX, headers=headers, timeout=timeout_s, transport=transport, follow_redirects=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End its connections."""
        self._http.close()

    def latest(self, device: str, metrics: Sequence[str] = ()) -> Latest:
        """The newest sample of each of a device's series, or of these metrics'."""
        return Latest.of(self._json(f"devices/{quote(device, safe='')}/latest", {"metric": list(metrics)}))

    def latest_of_many(
        self,
        devices: Sequence[str] = (),
        metrics: Sequence[str] = (),
        *,
        tag: str | None = None,
        type: str | None = None,  # noqa: A002 - as the API names it
    ) -> Iterator[Latest]:
        """The same of many devices, all or these, in order of their names; pages are fetched as they are needed."""
        asked = {"device": ",".join(devices) or None, "metric": list(metrics), "tag": tag, "type": type}
        for page in self._pages("latest", asked):
            yield from map(Latest.of, page["devices"])

    def telemetry(
        self,
        device: str,
        metrics: Sequence[str],
        *,
        start: Moment = None,
        end: Moment = None,
        step: str | None = None,
        aggregate: Sequence[str] = (),
        source: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Table:
        """A page of what a device measured: buckets of `step` (`5m`, `all`; about 500 where it is None), or samples with
        `aggregate=["raw"]`. `source` forces raw, 1m, 5m or 1h."""
        asked = _telemetry(metrics, start, end, step, aggregate, source)
        asked |= {"limit": limit, "cursor": cursor, "format": "json"}
        return Table.of(self._json(f"devices/{quote(device, safe='')}/telemetry", asked))

    def telemetry_pages(self, device: str, metrics: Sequence[str], **asked: Any) -> Iterator[Table]:
        """As `telemetry`, one page after the other until the end; late samples before a page do not repeat or drop rows."""
        while True:
            page = self.telemetry(device, metrics, **asked)
            yield page
            if page.next is None:
                return
            asked["cursor"] = page.next

    def telemetry_file(
        self,
        device: str,
        metrics: Sequence[str],
        format: Literal["csv", "arrow"],  # noqa: A002 - as the API names it
        *,
        start: Moment = None,
        end: Moment = None,
        step: str | None = None,
        aggregate: Sequence[str] = (),
        source: str | None = None,
    ) -> Iterator[bytes]:
        """All of it as CSV or an Arrow stream, in pieces as they arrive."""
        asked = _telemetry(metrics, start, end, step, aggregate, source) | {"format": format}
        path = f"devices/{quote(device, safe='')}/telemetry"
        try:
            with self._http.stream("GET", path, params=_given(asked)) as answer:
                if answer.status_code >= 400:
                    answer.read()
                    raise _refused(answer)
                yield from answer.iter_bytes()
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def trips(
        self,
        devices: Sequence[str] = (),
        *,
        start: Moment = None,
        end: Moment = None,
        state: Sequence[str] = (),
        micro: bool | None = None,
        tag: str | None = None,
        type: str | None = None,  # noqa: A002 - as the API names it
        page: int = 100,
    ) -> Iterator[Trip]:
        """Trips that overlap the range, the newest first; pages are fetched as they are needed."""
        asked: dict[str, Any] = {"device": ",".join(devices) or None, "state": list(state), "micro": micro}
        asked |= {"from": _moment(start), "to": _moment(end), "tag": tag, "type": type, "limit": page, "format": "json"}
        for told in self._pages("trips", asked):
            yield from map(Trip.of, told["trips"])

    def trip(self, trip: str, metrics: Sequence[str] = ()) -> TripDetail:
        """Everything about a trip, and what these metrics (or all numbers) did over it."""
        asked = {"metric": list(metrics), "format": "json"}
        return TripDetail.of(self._json(f"trips/{quote(trip, safe='')}", asked))

    def trip_file(self, trip: str, format: Literal["geojson", "gpx"], *, full: bool = False) -> bytes:  # noqa: A002
        """A trip as GeoJSON or GPX; `full`: with every position that is still kept."""
        asked = {"format": format, "track": "full" if full else None}
        return self._get(f"trips/{quote(trip, safe='')}", asked).content

    def fleet(
        self,
        metric: str,
        *,
        start: Moment = None,
        end: Moment = None,
        step: str | None = None,
        aggregate: Sequence[str] = (),
        devices: Sequence[str] = (),
        tag: str | None = None,
        type: str | None = None,  # noqa: A002 - as the API names it
        source: str | None = None,
    ) -> Table:
        """A metric over many devices per step: mean, min, max, sum, count, devices, and percentiles such as p95."""
        asked = _telemetry([metric], start, end, step, aggregate, source)
        asked |= {"device": ",".join(devices) or None, "tag": tag, "type": type, "by": "step", "format": "json"}
        return Table.of(self._json("fleet/telemetry", asked))

    def fleet_by_device(
        self,
        metric: str,
        *,
        top: int = 10,
        order: Literal["desc", "asc"] = "desc",
        start: Moment = None,
        end: Moment = None,
        aggregate: Sequence[str] = (),
        devices: Sequence[str] = (),
        tag: str | None = None,
        type: str | None = None,  # noqa: A002 - as the API names it
    ) -> Ranking:
        """The devices with the greatest (`asc`: least) first aggregate of a metric over the range."""
        asked = _telemetry([metric], start, end, None, aggregate, None) | {"by": "device", "top": top, "order": order}
        asked |= {"device": ",".join(devices) or None, "tag": tag, "type": type}
        told = self._json("fleet/telemetry", asked)
        return Ranking(time_of(told["from"]), time_of(told["to"]), told["source"], tuple(told["rows"]))

    def fleet_trips(
        self,
        *,
        start: Moment = None,
        end: Moment = None,
        by: Literal["day", "week", "month", "device", "all"] = "day",
        timezone: str = "UTC",
        devices: Sequence[str] = (),
        tag: str | None = None,
        type: str | None = None,  # noqa: A002 - as the API names it
        micro: bool | None = False,
        order: str | None = None,
        top: int | None = None,
    ) -> TripFigures:
        """Number, distance and times of the trips that began in the range (30 days where none is given); `order` by a figure."""
        asked: dict[str, Any] = {"from": _moment(start), "to": _moment(end), "by": by, "timezone": timezone}
        asked |= {"device": ",".join(devices) or None, "tag": tag, "type": type, "micro": micro}
        asked |= {"order": order, "top": top}
        told = self._json("fleet/trips", asked)
        return TripFigures(
            time_of(told["from"]), time_of(told["to"]), told["by"], told["timezone"], tuple(told["rows"])
        )

    def _pages(self, path: str, asked: dict[str, Any]) -> Iterator[Any]:
        while True:
            told = self._json(path, asked)
            yield told
            if not told["next"]:
                return
            asked = asked | {"cursor": told["next"]}

    def _json(self, path: str, asked: dict[str, Any]) -> Any:
        return self._get(path, asked).json()

    def _get(self, path: str, asked: dict[str, Any]) -> httpx.Response:
        try:
            answer = self._http.get(path, params=_given(asked))
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if answer.status_code != 200:
            raise _refused(answer)
        return answer

    def _unreachable(self, error: httpx.HTTPError) -> GatewayError:
        return GatewayError(f"The gateway at {self._url} cannot be reached: {str(error) or type(error).__name__}.")


def _telemetry(
    metrics: Sequence[str], start: Moment, end: Moment, step: str | None, aggregate: Sequence[str], source: str | None
) -> dict[str, Any]:
    asked: dict[str, Any] = {"metric": list(metrics), "from": _moment(start), "to": _moment(end), "step": step}
    return asked | {"aggregate": ",".join(aggregate) or None, "source": source}


def _moment(value: Moment) -> str | None:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return None if value is None else str(value)


def _given(asked: dict[str, Any]) -> dict[str, Any]:
    """Without what is not given; booleans as the API writes them."""
    return {
        name: ("true" if value else "false") if isinstance(value, bool) else value
        for name, value in asked.items()
        if value is not None and value != []
    }


def _refused(answer: httpx.Response) -> GatewayError:
    try:
        told = answer.json()
        detail = str(told["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"The gateway answered with status {answer.status_code}."
    wait = answer.headers.get("retry-after", "")
    return GatewayError(detail, answer.status_code, float(wait) if wait.isdecimal() else None)
