"""Load on a server of this machine: latencies, pictures a second, and memory over time.

    python examples/measurements/serve_load.py my-bundle --clients 8 --seconds 120 --spoilers

Starts `python -m runtimes serve` on a free port, asks for pictures one by one, then with all
clients at once, each sending its next request when it has its answer, and stops the server.
"""

import argparse
import contextlib
import http.client
import json
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from runtimes.arguments import Parser, a_path, positive
from runtimes.console import run_cli
from runtimes.errors import RunError

PATH = "/v1/images/generations"
MOST_REQUESTS = 100_000
EVERY = 1.0  # seconds between two looks at the memory
SPOILED = 5.0  # seconds between two requests that nobody will read
LONGEST = 600.0  # seconds for one answer
COLOURS, SHAPES = ("red", "green", "blue", "yellow"), ("circle", "star", "ring", "square")


@dataclass
class Load:
    """What the clients saw: seconds of each answer, statuses that are not 200, bytes of memory."""

    clients: int
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    refused: dict[int, int] = field(default_factory=dict)
    memory: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """The figures; RunError where nothing was answered."""
        if len(self.latencies) < 2:
            raise RunError("fewer than two requests were answered; give more --seconds")
        cuts = statistics.quantiles(self.latencies, n=100, method="inclusive")
        quarter = max(len(self.memory) // 4, 1)
        return {
            "clients": self.clients,
            "answers": len(self.latencies),
            "a second": len(self.latencies) / self.seconds,
            "p50": cuts[49],
            "p95": cuts[94],
            "p99": cuts[98],
            "slowest": max(self.latencies),
            "refused": sum(self.refused.values()),
            "MB, first quarter": statistics.median(self.memory[:quarter]) / 1e6,
            "MB, last quarter": statistics.median(self.memory[-quarter:]) / 1e6,
        }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = Parser(prog="python examples/measurements/serve_load.py", description=__doc__ or "")
    add = made.add_argument
    add("bundle", type=a_path, help="bundle folder")
    add("--clients", type=positive, default=8, help="clients at once (default: 8)")
    add("--seconds", type=positive, default=120, help="how long they ask (default: 120)")
    add("--alone-seconds", type=positive, default=30, help="how long one asks alone (default: 30)")
    add("--steps", type=positive, help="Stage C steps (default: the bundle's)")
    add("--decoder-steps", type=positive, help="Stage B steps (default: the bundle's)")
    add("--max-batch", type=positive, help="pictures made at a time (default: the server's)")
    add(
        "--spoilers",
        action="store_true",
        help="beside the clients, one that goes away in the middle and one that reads nothing",
    )
    add("--json", type=Path, metavar="FILE", help="write every latency and size of memory")
    add("--debug", action="store_true", help="show the traceback of an error")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_cli(parser(), _run, argv, interrupted="the server was stopped")


def _run(args: argparse.Namespace) -> None:
    fields = {"steps": args.steps, "decoder_steps": args.decoder_steps}
    with running(args) as port:
        ask(port, "to begin with", 0, fields)
        alone = under_load(port, 1, args.alone_seconds, fields, spoilers=False)
        together = under_load(port, args.clients, args.seconds, fields, spoilers=args.spoilers)
    loads = [alone, together]
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(load) for load in loads]))
    print_table([load.summary() for load in loads])


@contextlib.contextmanager
def running(args: argparse.Namespace) -> Iterator[int]:
    """The port of a server in a process of its own, stopped in the end."""
    words = ["serve", str(args.bundle), "--port", "0"]
    words += ["--max-batch", str(args.max_batch)] if args.max_batch else []
    command = [sys.executable, "-m", "runtimes", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    found = None
    for line in process.stderr:
        if found := re.search(r"^serving .*:(\d+)$", line):
            break
        print(line, end="", file=sys.stderr)
    try:
        if found is None:
            raise RunError("the server did not start")
        threading.Thread(target=process.stderr.read, daemon=True).start()  # or its log would fill
        yield int(found[1])
    finally:
        process.terminate()
        process.wait(LONGEST)


def under_load(
    port: int, clients: int, seconds: float, fields: dict[str, object], *, spoilers: bool
) -> Load:
    """What so many clients see for so many seconds."""
    load, started = Load(clients), time.monotonic()
    ends = started + seconds
    threads = [
        threading.Thread(target=_client, args=(port, number, ends, fields, load))
        for number in range(clients)
    ]
    threads += [threading.Thread(target=_memory, args=(port, ends, load))]
    for spoil in (_goes_away, _reads_nothing) if spoilers else ():
        threads.append(threading.Thread(target=spoil, args=(port, ends, fields)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.seconds = time.monotonic() - started
    return load


def ask(port: int, prompt: str, seed: int, fields: dict[str, object]) -> int:
    """The status of one answer, read to its end."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST)
    body = json.dumps({"prompt": prompt, "seed": seed, **fields})
    try:
        connection.request("POST", PATH, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def _client(port: int, number: int, ends: float, fields: dict[str, object], load: Load) -> None:
    prompt = f"a {COLOURS[number % 4]} {SHAPES[number // 4 % 4]}"
    for seed in range(MOST_REQUESTS):
        started = time.monotonic()
        if started >= ends:
            return
        status = ask(port, prompt, seed, fields)
        if status == 200:
            load.latencies.append(time.monotonic() - started)
        else:
            load.refused[status] = load.refused.get(status, 0) + 1
            time.sleep(1)


def _memory(port: int, ends: float, load: Load) -> None:
    while time.monotonic() < ends:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        found = re.search(r"^process_resident_memory_bytes (\S+)$", text, re.MULTILINE)
        if found:
            load.memory.append(float(found[1]))
        time.sleep(EVERY)


def _opened(port: int, fields: dict[str, object]) -> socket.socket:
    """A connection on which a stream was asked for."""
    about = {"prompt": "a spoiler", "stream": True, "partial_images": 3}
    body = json.dumps(about | fields)
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection(("127.0.0.1", port), timeout=LONGEST)
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    return connection


def _goes_away(port: int, ends: float, fields: dict[str, object]) -> None:
    while time.monotonic() < ends:
        with _opened(port, fields) as connection:
            connection.recv(1)
        time.sleep(SPOILED)


def _reads_nothing(port: int, ends: float, fields: dict[str, object]) -> None:
    kept: list[socket.socket] = []
    while time.monotonic() < ends:
        kept.append(_opened(port, fields))
        if len(kept) > 8:
            kept.pop(0).close()
        time.sleep(SPOILED)
    for connection in kept:
        connection.close()


def print_table(summaries: Sequence[dict[str, float]]) -> None:
    """The summaries as a table in Markdown."""
    names = list(summaries[0])
    print("|" + "|".join(f" {name} " for name in names) + "|")
    print("|" + "|".join("--:" for _ in names) + "|")
    for summary in summaries:
        print("|" + "|".join(f" {_shown(value)} " for value in summary.values()) + "|")


def _shown(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


if __name__ == "__main__":
    sys.exit(main())
