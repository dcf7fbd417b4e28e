"""Becomes another program that dies with its parent; run as a script, imports only the standard library.

    python -I -S launch.py [--death-signal N] [--uid N --gid N] [--env FILE] [--backoff FILE] -- PROGRAM ARGUMENTS...

It replaces itself by the program, so process id and exit code are the program's own. As a script it works from any
supervisor, and it spares the caller a `preexec_fn`, which is unsafe in a process with threads.
"""

import contextlib
import ctypes
import json
import os
import resource
import sys
import time

PR_SET_PDEATHSIG = 1
SHORT_LIFE_S = 10.0
FIRST_DELAY_S = 0.5
# The last wait and the start of a service must fit into the 10 s after which any slot is attended again.
MAX_DELAY_S = 4.0
OPEN_FILES = 65_536


def backoff_s(history: str, now: float) -> tuple[float, str]:
    """How long to wait before this start, and the history to keep for the next one.

    A program that lived longer than SHORT_LIFE_S starts again at once; each shorter life doubles the wait.
    """
    try:
        short_lives, started = json.loads(history)
    except ValueError:
        short_lives, started = 0, now - 2 * SHORT_LIFE_S
    short_lives = short_lives + 1 if 0 <= now - started < SHORT_LIFE_S else 0
    delay = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(short_lives - 1, 10)) if short_lives else 0.0
    return delay, json.dumps([short_lives, now + delay])


def _wait(path: str) -> None:
    try:
        with open(path) as file:
            history = file.read()
    except FileNotFoundError:
        history = ""
    # CLOCK_MONOTONIC is one clock for all processes of the machine
    delay, history = backoff_s(history, time.monotonic())
    with open(f"{path}.new", "w") as file:
        file.write(history)
    os.replace(f"{path}.new", path)  # who reads it never sees half of it
    time.sleep(delay)


def _raise_open_files() -> None:
    """One file a connection: the usual soft limit of 1,024 is a small fleet."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main(arguments: list[str]) -> None:
    """Applies the options and becomes the program; does not return."""
    split = arguments.index("--")
    options = dict(zip(arguments[:split:2], arguments[1:split:2], strict=True))
    program = arguments[split + 1 :]
    parent = os.getppid()
    if "--backoff" in options:
        _wait(options["--backoff"])
    if "--env" in options:
        with open(options["--env"]) as file:
            os.environ.update(json.load(file))
    _raise_open_files()
    if "--uid" in options:
        os.setgroups([])
        os.setgid(int(options["--gid"]))
        os.setuid(int(options["--uid"]))
    if "--death-signal" in options:
        # after setuid: a change of credentials clears it (prctl(2))
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(options["--death-signal"]), 0, 0, 0)
        if os.getppid() != parent:
            sys.exit("the parent died during the start")
    os.execvp(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
