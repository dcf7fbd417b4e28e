"""Picks TCP ports on loopback that a server can keep over its restarts."""

import fcntl
import os
import random
import socket
import tempfile
from collections import deque
from pathlib import Path

_RESERVED_MAX = 64
_reserved: deque[int] = deque(maxlen=_RESERVED_MAX)
"""Locks of the ports this process chose last. A server may take seconds until it listens; meanwhile nobody else of this
account chooses its port."""
_FIRST, _LAST = 20_000, 60_999
_LOCAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """True if a server could listen on `port` now; connections in TIME_WAIT do not count."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            return False
    return True


def _reserve(port: int) -> bool:
    """False if a process of this account has chosen this port and may be about to listen on it."""
    folder = Path(tempfile.gettempdir()) / f"outrider-ports-{os.geteuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(folder / str(port), os.O_WRONLY | os.O_CREAT, 0o600)
    except OSError:
        return True  # no place for locks: chance must do
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return False
    if len(_reserved) == _RESERVED_MAX:
        os.close(_reserved.popleft())
    _reserved.append(lock)
    return True


def free_port(host: str = "127.0.0.1") -> int:
    """A free TCP port outside the kernel's range for outgoing connections.

    A port from inside that range (what binding to port 0 gives) can be taken by any client's connection while
    the server is down, and then the server cannot come back on it.
    """
    first, last = _FIRST, _LAST
    try:
        outgoing_first, outgoing_last = map(int, _LOCAL_RANGE.read_text().split())
    except (OSError, ValueError):
        outgoing_first, outgoing_last = 32_768, 60_999
    candidates = [port for port in range(first, last + 1) if not outgoing_first <= port <= outgoing_last]
    for port in random.sample(candidates, min(200, len(candidates))):
        if is_free(port, host) and _reserve(port):
            return port
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])
