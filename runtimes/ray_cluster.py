"""Which Ray cluster a run is given, and whether it answers; Ray itself is not imported here."""

import re
import socket
import subprocess
import sys
from argparse import ArgumentTypeError
from dataclasses import dataclass

from runtimes.console import require
from runtimes.errors import UsageError

EXTRA = "ray"
OWN = "own"  # address of a cluster on this machine that lasts as long as the run
AUTO = "auto"  # the cluster that was started on this machine by `ray start`
_ANSWER, _STATUS = 5.0, 30.0  # seconds that an address may take to answer, and Ray to say how it is


@dataclass(frozen=True)
class Cluster:
    """Where workers run, and how many: None is as many as the cluster has room for.

    `address` is HOST:PORT, 'auto' or 'own'; `cpus` and `gpus` are what each worker takes.
    """

    address: str = OWN
    workers: int | None = None
    cpus: int = 1
    gpus: int = 0


def ray_address(text: str) -> str:
    """The address of a cluster's head, as `ray start` prints it, or 'auto'."""
    if text in (OWN, AUTO) or re.fullmatch(r"[\w.-]+:[0-9]{1,5}", text):
        return text
    raise ArgumentTypeError(
        f"'{text}' is no address of a Ray cluster; give HOST:PORT, '{AUTO}' or, at the end of the "
        "command, nothing"
    )


def check_cluster(cluster: Cluster) -> None:
    """UsageError where Ray is not installed, or nobody answers at the cluster's address."""
    require(("ray", "pyarrow"), EXTRA, note=", which --ray needs")
    if cluster.address == OWN:
        return
    if cluster.address != AUTO:
        host, _, port = cluster.address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), _ANSWER).close()
        except (OSError, OverflowError) as error:
            raise UsageError(f"nobody answers at --ray {cluster.address}: {error}") from None
    _check_status(cluster.address)


def _check_status(address: str) -> None:
    # `ray.init` waits for minutes where something else than Ray answers; a process can be ended.
    command = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_STATUS, check=False)
    except subprocess.TimeoutExpired:
        done = None
    if done is not None and done.returncode and b"AuthenticationError" in done.stderr:
        # Ray sends no token to an address by itself, though it starts clusters with the one it has.
        raise UsageError(
            f"--ray {address}: the cluster asks for another token, or for one at all: set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the cluster's where ~/.ray/auth_token is "
            "not that"
        )
    if done is None or done.returncode:
        started = "none was started here" if address == AUTO else "what answers there is none"
        raise UsageError(
            f"--ray {address} is no Ray cluster that runs: {started}, or of another version"
        )
