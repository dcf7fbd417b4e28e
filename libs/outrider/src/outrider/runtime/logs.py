"""Structured logs: one JSON object a line with an event name and fields, or the same for people on a terminal."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Literal

import orjson

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """`{"ts","level","service","event", …fields}`; a traceback goes into `error`."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        line = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "event": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in _STANDARD},
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        try:
            return _json(line)
        except TypeError:  # a lone surrogate, an integer of more than 64 bits, a structure too deep
            return _json({str(key): _plain(value) for key, value in line.items()})


def _json(value: object) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _plain(value: object) -> object:
    try:
        _json(value)
    except TypeError:
        return ascii(value)
    return value


class ConsoleFormatter(logging.Formatter):
    """`12:00:01.234 INFO event key=value …`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line for people."""
        fields = " ".join(f"{key}={value}" for key, value in vars(record).items() if key not in _STANDARD)
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        line = f"{clock} {record.levelname:<7} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(service: str, level: str, style: Literal["json", "console"]) -> None:
    """Send every log record of the process to standard output in this style."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(service) if style == "json" else ConsoleFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # we say the same once, with what to do
