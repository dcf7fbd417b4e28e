"""Merges the log files of many processes into one readable stream."""

import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Final

from rich.markup import escape

LogSink = Callable[[str, str], None]
"""Called with a process name and one line of its log."""

_POLL_S = 0.2
_COLOURS: Final = ("cyan", "magenta", "green", "blue", "bright_cyan", "bright_magenta", "bright_green", "bright_blue")
_LEVEL_COLOURS: Final = {"warning": "yellow", "error": "red", "critical": "bold red"}
_HIDDEN: Final = {"ts", "level", "service", "event", "error"}


class Followers:
    """Reads what is appended to log files, over their rotation, in one background thread."""

    def __init__(self, files: Mapping[str, Path], sink: LogSink) -> None:
        self._sink = sink
        self._followers = [_Follower(name, path, sink) for name, path in files.items()]
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-follower", daemon=True)

    def start(self) -> None:
        """From now on; lines already in the files are left out."""
        self._thread.start()

    def add(self, name: str, path: Path) -> None:
        """Follows one more file."""
        self._followers.append(_Follower(name, path, self._sink))

    def stop(self) -> None:
        """Returns when all that was written so far has been passed on."""
        self._ending.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._ending.wait(_POLL_S):
            self._read()
        self._read()
        for follower in self._followers:
            follower.close()

    def _read(self) -> None:
        for follower in self._followers:
            follower.read()


class _Follower:
    def __init__(self, name: str, path: Path, sink: LogSink) -> None:
        self._name, self._path, self._sink = name, path, sink
        self._file: BinaryIO | None = None
        self._rest = b""
        if path.exists():
            self._file = path.open("rb")
            self._file.seek(0, 2)

    def read(self) -> None:
        self._drain()
        if self._file is None or self._was_rotated():
            self._drain()  # what was written between the first look and the rotation
            self.close()
            try:
                self._file = self._path.open("rb")
            except FileNotFoundError:
                return
            self._drain()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _was_rotated(self) -> bool:
        try:
            return self._file is not None and self._path.stat().st_ino != _inode(self._file)
        except FileNotFoundError:
            return False

    def _drain(self) -> None:
        if self._file is None:
            return
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            self._sink(self._name, line.decode(errors="replace"))


def _inode(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_ino


def readable(process: str, line: str, width: int) -> str:
    """One log line as rich markup: the process's name in its colour, then the line; JSON lines become words."""
    colour = _COLOURS[sum(process.encode()) % len(_COLOURS)]
    return f"[{colour}]{escape(process):<{width}}[/] {_words(line)}"


def _words(line: str) -> str:
    try:
        record = json.loads(line)
        event, level, clock = str(record["event"]), str(record["level"]), str(record["ts"])[11:23]
    except (ValueError, KeyError, TypeError):
        return escape(line)
    fields = " ".join(f"{name}={_value(value)}" for name, value in record.items() if name not in _HIDDEN)
    level_colour = _LEVEL_COLOURS.get(level, "dim")
    text = f"[dim]{clock}[/] [{level_colour}]{level:<7}[/] {escape(event)} [dim]{escape(fields)}[/]".rstrip()
    return f"{text}\n{escape(str(record['error']))}" if record.get("error") else text


def _value(value: object) -> str:
    return value if isinstance(value, str) and " " not in value else json.dumps(value, ensure_ascii=False)
