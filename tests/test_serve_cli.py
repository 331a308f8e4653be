"""The server's command line: what ends it before it serves, and how it ends after."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from runtimes.cli import main
from runtimes.errors import UsageError
from runtimes.serve.cli import parser
from runtimes.serve.keys import check_exposed, is_known, is_loopback, read_keys
from runtimes.serve.limits import Limits, Queueing, limits_of, queueing_of
from runtimes.serve.presets import read_presets

ROOT = Path(__file__).parents[1]
BODY = {"prompt": "a ring", "steps": 2, "decoder_steps": 2}


def run(capsys, *words) -> tuple[int, str, str]:
    code = main(["serve", *map(str, words)])
    out = capsys.readouterr()
    return code, out.out, out.err


def assert_refused(capsys, words, message, code=2) -> None:
    found, out, err = run(capsys, *words)
    assert (found, out) == (code, "") and message in err
    assert err.startswith("error: ") and err.count("\n") == 1


@pytest.fixture
def written(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
        return path

    return write


# Options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "70000"], "--port is 70000; ports are from 0 to 65535"),
        (["--port", "http"], "--port: 'http' is no whole number"),
        (["--window", "-1"], "--window: '-1' is no number of seconds"),
        (["--window", "nan"], "--window: 'nan' is no number of seconds"),
        (["--grace", "inf"], "--grace: 'inf' is no number of seconds"),
        (["--timeout", "0"], "--timeout: it is 0; it must be more"),
        (["--max-body", "0"], "--max-body: '0' is no whole number from 1"),
        (["--max-n", "0"], "--max-n: 0 is too small"),
        (["--queue", "3", "--max-n", "4"], "--queue is 3 and --max-n 4"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0 is open to other machines: give --api-key-file"),
        (["--host", "::"], "--host :: is open to other machines"),
        (["--host", "no such host", "--api-key-file", "KEYS"], "--host no such host is no address"),
        (["--host", "192.0.2.1", "--api-key-file", "KEYS"], "cannot listen on 192.0.2.1"),
        (["--api-key-file", "no-such-file"], "--api-key-file no-such-file cannot be read"),
        (["--presets", "no-such-file"], "--presets no-such-file cannot be read"),
        (["--name", "a", "--name", "b"], "2 --name for 1 bundles"),
        (["--max-batch", "0"], "--max-batch: 0 is too small"),
        (["--api-key", "x"], "there is no --api-key; did you mean --api-key-file?"),
    ],
)
def test_what_is_refused_before_anything_is_opened(capsys, written, words, message):
    keys = written("keys.txt", "a-key\n")
    words = [str(keys) if word == "KEYS" else word for word in words]
    assert_refused(capsys, ["no-such-bundle", *words], message)


def test_a_port_in_use_is_said_before_bundles_are_opened(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_refused(
            capsys, ["no-such-bundle", "--port", port], f"port {port} of 127.0.0.1 is in"
        )


def test_a_bundle_that_does_not_open(capsys, tmp_path):
    assert_refused(capsys, [tmp_path / "none", "--port", "0"], "none", code=1)
    (tmp_path / "bundle.json").write_text("{}")
    assert_refused(capsys, [tmp_path, "--port", "0"], "bundle.json", code=1)


def test_a_bundle_that_was_changed_is_found_while_it_is_opened(capsys, bundles, tmp_path):
    import shutil

    folder = tmp_path / "changed"
    shutil.copytree(bundles("one_level").folder, folder)
    path = next(folder.glob("stage_a/*.onnx*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert_refused(capsys, [folder, "--port", "0"], "stage_a", code=1)


def test_two_bundles_of_one_name(capsys, tmp_path):
    folders = [tmp_path / parent / "model" for parent in "ab"]
    assert_refused(capsys, folders, "two models are called 'model': give --name once a bundle")
    twice = [*folders, "--name", "x", "--name", "x"]
    assert_refused(capsys, twice, "two models are called 'x'")


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[2J", "\udcff"])
def test_names_that_no_client_could_say(capsys, name):
    message = f"{name!a} cannot be a model's name: give --name once a bundle"
    assert_refused(capsys, ["bundle", f"--name={name}"], message)


def test_limits_below_what_a_bundle_makes(capsys, bundles):
    words = [bundles("one_level").folder, "--port", "0", "--max-steps", "9"]
    assert_refused(capsys, words, "--max-steps is 9, and one_level")


def test_limits_are_what_the_options_say():
    given = {
        "--max-n": 2,
        "--max-steps": 9,
        "--max-pixels": 4096,
        "--max-prompt-chars": 5,
        "--max-body": 99,
        "--timeout": 7,
        "--window": 0.5,
        "--max-batch": 3,
        "--queue": 6,
        "--grace": 8,
    }
    args = parser().parse_args(["b", *(f"{flag}={value}" for flag, value in given.items())])
    assert limits_of(args) == Limits(2, 9, 4096, 5, 99, 7.0)
    assert queueing_of(args) == Queueing(0.5, 6, 3, 8.0)
    assert limits_of(parser().parse_args(["b"])) == Limits()


def test_what_is_not_installed_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    message = "prometheus-client is not installed: pip install 'wuerstchen-export[serve]'"
    assert_refused(capsys, ["bundle"], message)


# Presets and keys


def test_presets_are_read_within_the_limits(written):
    fast = {"fast": {"steps": 10, "decoder_steps": 6, "guidance": 4.0}, "plain": {}}
    assert read_presets(written("p.json", fast), Limits()) == fast
    assert read_presets(None, Limits()) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ([], "is no JSON object such as"),
        ({"fast": 3}, "'fast' is no JSON object"),
        ({"fast": {"step": 3}}, "'fast' has 'step'; a preset has steps, decoder_steps"),
        ({"fast": {"steps": 101}}, "'fast', steps: 101 is not within 1 to 100"),
        ({"fast": {"guidance": None}}, "'fast', guidance: a number is wanted, not null"),
        ("x" * 100_001, "has more than 100,000 bytes"),
    ],
)
def test_presets_that_are_refused(written, text, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        read_presets(written("p.json", text), Limits())


def test_keys_are_lines(written):
    path = written("keys.txt", "# of the shop\nfirst-key\n\nsecond-key\r\n")
    assert read_keys(path) == (b"first-key", b"second-key") and read_keys(None) == ()
    for text, message in (
        ("# none\n", "holds no keys"),
        ("two words\n", "key 1 has a blank"),
        ("kéy\n", "key 1 has a blank or a character that is not ASCII"),
    ):
        with pytest.raises(UsageError, match=message):
            read_keys(written("bad.txt", text))


def test_only_a_whole_key_is_known():
    keys = (b"abc", b"defg")
    assert is_known("Bearer abc", keys) and is_known("bearer  defg ", keys)
    for given in ("", "Bearer", "Bearer ab", "Bearer abcd", "abc", "Basic abc", "Bearer abc,defg"):
        assert not is_known(given, keys)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("LocalHost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.1", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("", False),
    ],
)
def test_addresses_of_this_machine_alone(host, loopback):
    assert is_loopback(host) == loopback
    check_exposed(host, (b"key",))
    if not loopback:
        with pytest.raises(UsageError, match="--api-key-file"):
            check_exposed(host, ())


# Real processes


def started(*words, script=None) -> tuple[subprocess.Popen, str]:
    """The command, or a script that runs it, in a process of its own, and where it serves."""
    run = ["-m", "runtimes", "serve"] if script is None else ["-c", script]
    command = [sys.executable, *run, *map(str, words), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    line = process.stderr.readline()
    found = re.search(r"^serving .* on (http://\S+)$", line)
    assert found, line + process.communicate()[1]
    return process, found[1]


def post(address, **fields):
    data, headers = json.dumps(fields).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/images/generations", data, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_exit_code_0(bundles, number):
    process, address = started(bundles("one_level").folder, "--name", "tiny")
    assert len(post(address, **BODY, n=2)["data"]) == 2
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in err
    assert err.splitlines()[-1] == "stopping: nothing new is taken, what is there is finished"


@pytest.mark.slow
def test_a_signal_ends_it_in_the_middle_of_a_step(bundles):
    """Python's own end, which runs what `atexit` has, would abort under a running graph."""
    script = (
        "import atexit, sys, time\n"
        "from runtimes.serve import cli\n"
        "from runtimes.serve.model import Model\n"
        "atexit.register(print, 'an end of its own', file=sys.stderr)\n"
        "Model.warm_up = lambda self: None\n"
        "Model.make = lambda *_: time.sleep(600)\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    process, address = started(bundles("one_level").folder, "--grace", "0", script=script)
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as asking:
        body = json.dumps(BODY)
        head = "POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        asking.sendall(f"{head}{body}".encode())
        ends = time.monotonic() + 60
        while loads(address)["running"] != 1.0:
            assert time.monotonic() < ends
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert asking.recv(12) == b"HTTP/1.1 503"
    assert process.returncode == 0 and "an end of its own" not in err and "Traceback" not in err


@pytest.mark.slow
def test_clients_that_are_killed_leave_nothing_behind(bundles):
    """Twenty that ask for pictures and die; then nothing waits, and the next one is served."""
    process, address = started(bundles("one_level").folder, "--queue", "100")
    port = int(address.rpartition(":")[2])
    script = (
        "import http.client, json, sys, time\n"
        f"c = http.client.HTTPConnection('127.0.0.1', {port})\n"
        "c.request('POST', '/v1/images/generations', json.dumps({'prompt': 'a', 'n': 4, "
        "'steps': 100, 'stream': True}), {'Content-Type': 'application/json'})\n"
        "print(c.getresponse().status, flush=True)\n"
        "time.sleep(600)\n"
    )
    try:
        for _ in range(20):
            client = subprocess.Popen(
                [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
            )
            assert client.stdout.readline().strip() == "200"
            client.kill()
            client.communicate()
        ends = time.monotonic() + 60
        while (load := loads(address)) != {"waiting": 0.0, "running": 0.0}:
            assert time.monotonic() < ends, load
            time.sleep(0.1)
        assert len(post(address, **BODY)["data"]) == 1
        assert descriptors(process.pid) < 60
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


def loads(address) -> dict[str, float]:
    with urllib.request.urlopen(f"{address}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return {
        kind: float(re.search(rf"^wuerstchen_{kind}_pictures (\S+)$", text, re.M)[1])
        for kind in ("waiting", "running")
    }


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
