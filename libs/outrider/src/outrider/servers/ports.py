"""Picks TCP ports on loopback that a server can keep over its restarts."""

import random
import socket
from pathlib import Path

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
        if is_free(port, host):
            return port
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])
