"""Ports, the wait before a restart, and where PostgreSQL is found."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from outrider.servers import ports, postgres
from outrider.servers.base import ServerError
from outrider.servers.launch import MAX_DELAY_S, backoff_s


def test_free_port_is_not_one_of_the_kernels_outgoing_ones() -> None:
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    port = ports.free_port()
    assert ports.is_free(port)
    assert not low <= port <= high or low <= 20_000


def test_is_free_sees_a_listener() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        assert not ports.is_free(sock.getsockname()[1])


def lives(*lengths_s: float) -> list[float]:
    """The waits before each start of a program whose lives last so long."""
    history, now, waits = "", 1000.0, []
    for length_s in lengths_s:
        delay, history = backoff_s(history, now)
        waits.append(delay)
        now += delay + length_s
    return waits


def test_backoff_doubles_while_lives_are_short_and_is_bounded() -> None:
    assert lives(*[0.1] * 6) == [0, 0.5, 1, 2, 4, 4]
    assert max(lives(*[0.1] * 40)) == MAX_DELAY_S < 10 / 2  # a slot is attended again within 10 s, the start included


def test_backoff_forgets_after_a_long_life() -> None:
    assert lives(0.1, 0.1, 60, 0.1, 0.1) == [0, 0.5, 1, 0, 0.5]


def test_backoff_survives_a_broken_or_future_history() -> None:
    assert backoff_s("{", 5.0)[0] == 0
    assert backoff_s(json.dumps([7, 100.0]), 5.0)[0] == 0  # written before a reboot: the clock began anew


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("postgres (PostgreSQL) 18.4\n", "18.4"),
        ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", "15.18"),
        ("postgres (PostgreSQL) 19beta1\n", "19"),
    ],
)
def test_parse_postgres_version(text: str, version: str) -> None:
    assert postgres.parse_version(text) == version


def test_find_postgres_by_a_wrong_folder_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(postgres.VARIABLE, str(tmp_path))
    with pytest.raises(ServerError, match="OUTRIDER_POSTGRES_BIN"):
        postgres.find()


def test_find_postgres_of_a_version_that_is_not_here_says_which() -> None:
    with pytest.raises(ServerError, match=r"written by PostgreSQL 9, but only .* is here"):
        postgres.find(9)


def test_account_may_enter_needs_the_whole_path(tmp_path: Path) -> None:
    inner = tmp_path / "closed" / "inner"
    inner.mkdir(parents=True)
    nobody = postgres.Account("nobody", 65534, 65534)
    (tmp_path / "closed").chmod(0o700)
    assert not nobody.may_enter(inner)
    assert nobody.may_enter(Path("/usr/bin"))


def test_no_two_processes_choose_one_port() -> None:
    """Also while nobody listens on it yet."""
    code = "from outrider.servers import ports; print(*[ports.free_port() for _ in range(60)], flush=True); input()"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    try:
        chosen = [port for process in processes if process.stdout for port in process.stdout.readline().split()]
    finally:
        for process in processes:
            process.communicate("\n")
    assert len(set(chosen)) == 240
