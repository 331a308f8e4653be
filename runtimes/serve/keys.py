"""API keys: who may ask, where the server is for more than this machine."""

import hmac
import ipaddress
from pathlib import Path

from runtimes.errors import UsageError
from runtimes.prompts import read_prompts


def read_keys(path: Path | None) -> tuple[bytes, ...]:
    """The keys of a file, one a line, lines with '#' left out; none without a file.

    UsageError for an empty file, and for a key that no header can carry.
    """
    if path is None:
        return ()
    keys = read_prompts(path, "--api-key-file", what="keys")
    for number, key in enumerate(keys, 1):
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise UsageError(
                f"--api-key-file {path}: key {number} has a blank or a character that is not ASCII"
            )
    return tuple(key.encode() for key in keys)


def is_known(given: str, keys: tuple[bytes, ...]) -> bool:
    """Whether an Authorization header has one of the keys; takes as long for each of them."""
    scheme, _, key = given.partition(" ")
    data = key.strip().encode("utf-8", "surrogateescape")
    found = [hmac.compare_digest(data, known) for known in keys]
    return scheme.lower() == "bearer" and any(found)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address, or a name stands for such a one."""
    plain = host.removeprefix("[").removesuffix("]").lower()
    if plain == "localhost":
        return True
    try:
        return ipaddress.ip_address(plain).is_loopback
    except ValueError:
        return False


def check_exposed(host: str, keys: tuple[bytes, ...]) -> None:
    """UsageError where others could reach a server that wants no key."""
    if not keys and not is_loopback(host):
        raise UsageError(
            f"--host {host} is open to other machines: give --api-key-file FILE, a key a line, or "
            "leave --host out"
        )
