"""Puts a lost file of broker accounts back before the broker starts; run as a script, imports only the standard library.

    python -I -S seed.py --file FILE --seed SEED -- PROGRAM ARGUMENTS...

SEED is a complete file of accounts beside it, made with the keys (`outrider.access.bootstrap`) and holding only hashes.
FILE becomes a copy of it where it is missing or could not be used; then this process becomes the program. So a
supervisor may start the broker again at any time: it never comes up without its service accounts, and Mosquitto 2.1
never finds the file missing, which makes it invent accounts that may do everything.
"""

import contextlib
import json
import os
import stat
import sys
import tempfile
from typing import Any

REGISTRY = "svc:registry"
"""Whoever has this account made the file: the registry cannot work without it."""
INVENTED = "democlient"
"""The account Mosquitto 2.1 makes up beside `admin`, allowed to read and write everything."""


def read(path: str) -> tuple[dict[str, Any] | None, str]:
    """The document in a file of accounts, or None and what is wrong with it: missing, empty, cut off, somebody else's."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        return None, str(error.strerror or error)
    if not content.strip():
        return None, "it is empty"
    try:
        document = json.loads(content)
    except ValueError as error:
        return None, f"it is no JSON: {error}"
    names = set(usernames(document))
    if INVENTED in names:
        return None, f"it has the account {INVENTED}, which the broker made up"
    if REGISTRY not in names:
        return None, f"it has no account {REGISTRY}"
    return document, ""


def usernames(document: object) -> list[str]:
    """Names of the accounts in a document; empty where it is none of the plugin's."""
    if not isinstance(document, dict):
        return []
    clients, roles = document.get("clients"), document.get("roles")
    if not isinstance(clients, list) or not isinstance(roles, list):
        return []
    if not all(isinstance(entry, dict) for entry in (*clients, *roles)):
        return []
    return [str(client.get("username", "")) for client in clients]


def write(path: str, content: str) -> None:
    """Replaces a file whole or not at all, readable by its owner only: root leaves it to the owner of the folder."""
    folder = os.path.dirname(os.path.abspath(path))
    descriptor, temporary = tempfile.mkstemp(prefix=os.path.basename(path) + ".", dir=folder)
    try:
        with open(descriptor, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if os.geteuid() == 0:
                of_folder = os.stat(folder)
                os.fchown(file.fileno(), of_folder.st_uid, of_folder.st_gid)
            os.fchmod(file.fileno(), stat.S_IRUSR | stat.S_IWUSR)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def restore(path: str, seed: str) -> str:
    """Replaces an unusable file by the seed; returns what was wrong, "" where nothing was. Raises OSError without a seed."""
    document, problem = read(path)
    if document is None:
        with open(seed) as file:
            write(path, file.read())
    return problem


def main(arguments: list[str]) -> None:
    """Restores and becomes the program; does not return."""
    split = arguments.index("--")
    options = dict(zip(arguments[:split:2], arguments[1:split:2], strict=True))
    program = arguments[split + 1 :]
    problem = restore(options["--file"], options["--seed"])
    if problem:
        print(f"{options['--file']} was made anew from {options['--seed']}: {problem}", file=sys.stderr, flush=True)
    os.execvp(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
