"""What the server refuses, and what it says and does not say of it."""

import json
import math
import re
import socket
from dataclasses import replace
from pathlib import Path

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import JSON, PATH, Gated, served, until

from runtimes.errors import UsageError
from runtimes.pipeline import Pipeline
from runtimes.plan import Options, make_plan
from runtimes.serve.limits import Limits
from runtimes.serve.model import Model
from runtimes.serve.refusal import NOT_MADE, Refusal, of_usage
from runtimes.serve.schema import FIELDS, parse

SHORT = {"steps": 2, "decoder_steps": 2}


@pytest.fixture(scope="module")
def bundle(bundles):
    return bundles("one_level")


@pytest.fixture(scope="module")
def server(bundle):
    def models():
        return [Model("tiny", bundle, Pipeline.open(bundle), {"fast": {"steps": 1}})]

    with served(models, Limits(prompt_chars=1000, body=100_000)) as running:
        yield running


@pytest.fixture
def gated(bundle):
    model = Gated("tiny", bundle, Pipeline.open(bundle), {}, 2)
    with served(lambda: [model]) as running:
        running.model = model
        yield running
        model.let_through()


# What is no proper request

WRONG = {
    "no prompt": ({}, "prompt"),
    "prompt is a list": ({"prompt": ["a"]}, "prompt"),
    "prompt is a number": ({"prompt": 7}, "prompt"),
    "prompt is null": ({"prompt": None}, "prompt"),
    "prompt too long": ({"prompt": "a" * 1001}, "prompt"),
    "half a surrogate": ({"prompt": "\ud800"}, "prompt"),
    "unknown field": ({"prompt": "a", "sampler": "ddim"}, "sampler"),
    "n 0": ({"prompt": "a", "n": 0}, "n"),
    "n 5": ({"prompt": "a", "n": 5}, "n"),
    "n true": ({"prompt": "a", "n": True}, "n"),
    "n 1.0": ({"prompt": "a", "n": 1.0}, "n"),
    "n 10**400": ({"prompt": "a", "n": 10**400}, "n"),
    "steps 101": ({"prompt": "a", "steps": 101}, "steps"),
    "decoder steps -1": ({"prompt": "a", "decoder_steps": -1}, "decoder_steps"),
    "guidance 1e30": ({"prompt": "a", "guidance": 1e30}, "guidance"),
    "guidance 10**400": ({"prompt": "a", "guidance": 10**400}, "guidance"),
    "guidance below 0": ({"prompt": "a", "guidance": -1}, "guidance"),
    "guidance as a text": ({"prompt": "a", "guidance": "4"}, "guidance"),
    "seed -1": ({"prompt": "a", "seed": -1}, "seed"),
    "seed 2**53": ({"prompt": "a", "seed": 2**53}, "seed"),
    "a last seed of 2**53": ({"prompt": "a", "seed": 2**53 - 2, "n": 3}, "seed"),
    "size as a number": ({"prompt": "a", "size": 512}, "size"),
    "size of nothing": ({"prompt": "a", "size": "0x64"}, "size"),
    "size of digits elsewhere": ({"prompt": "a", "size": "٦٤x٦٤"}, "size"),
    "size too large": ({"prompt": "a", "size": "4096x4096"}, "size"),
    "size that is made larger": ({"prompt": "a", "size": "1x40000"}, "size"),
    "no such preset": ({"prompt": "a", "preset": "slow"}, "preset"),
    "preset as an object": ({"prompt": "a", "preset": {"steps": 1}}, "preset"),
    "url": ({"prompt": "a", "response_format": "url"}, "response_format"),
    "jpeg": ({"prompt": "a", "output_format": "jpeg"}, "output_format"),
    "transparent": ({"prompt": "a", "background": "transparent"}, "background"),
    "a list as quality": ({"prompt": "a", "quality": ["hd"]}, "quality"),
    "stream 1": ({"prompt": "a", "stream": 1}, "stream"),
    "previews without a stream": ({"prompt": "a", "partial_images": 1}, "partial_images"),
    "too many previews": ({"prompt": "a", "partial_images": 11, "stream": True}, "partial_images"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_the_wrong_field_is_named(server, case):
    fields, name = WRONG[case]
    status, headers, answer = server.make(**fields)
    assert status == 400 and headers["x-request-id"]
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["param"] == name and answer["error"]["type"] == "invalid_request_error"
    assert len(json.dumps(answer)) < 1000


@pytest.mark.parametrize(
    ("options", "param", "message"),
    [
        ({"height": 30}, "size", "height 30 gives Stage B a latent side of 6, no multiple of 9; "),
        ({"decoder_guidance": -1.0}, "decoder_guidance", "decoder_guidance is -1.0; it must be"),
        ({"steps": 0}, "steps", "steps is 0; it must be at least 1"),
    ],
)
def test_what_the_runtimes_refuse_is_told_of_the_request(bundle, options, param, message):
    sampling = replace(bundle.manifest.sampling, stage_b_multiple=9)
    with pytest.raises(UsageError) as caught:
        make_plan(sampling, Options(**options), 1, None)
    refusal = of_usage(caught.value, "other")
    assert (refusal.status, refusal.param) == (400, param)
    assert refusal.message.startswith(message) and "--" not in refusal.message


BROKEN = {
    "nothing": b"",
    "half an object": b'{"prompt": "a"',
    "a list": b'["a"]',
    "a word": b"prompt",
    "NaN": b'{"prompt": "a", "guidance": NaN}',
    "infinite": b'{"prompt": "a", "guidance": -Infinity}',
    "a number of 5000 digits": b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
    "nested 20000 times": b'{"prompt": ' + b"[" * 20_000,
    "no UTF-8": b'{"prompt": "\xe9"}',
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
}


@pytest.mark.parametrize("case", list(BROKEN))
def test_what_is_no_json(server, case):
    status, _, body = server.request("POST", PATH, BROKEN[case])
    assert status == 400 and json.loads(body)["error"]["code"] == "invalid_json"
    assert b"sys." not in body


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(fields=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=9), JSON_VALUES))
def test_whatever_a_body_holds_is_an_order_or_a_refusal(server, fields):
    """Within the limits, or with the name of a field; NaN and the like are none of JSON's."""
    limits = server.service.limits
    try:
        order = parse(json.dumps({"prompt": "a", **fields}).encode(), server.service.models, limits)
    except Refusal as refusal:
        assert refusal.status in (400, 404) and len(json.dumps(refusal.body())) < 1000
    else:
        assert 1 <= len(order.seeds) <= limits.n and len(order.prompt) <= limits.prompt_chars
        assert len(order.plan.stage_c.rows) <= limits.steps
        most = server.service.models["tiny"].most_pixels(limits)
        assert math.prod(order.plan.sizes.picture) <= most


@given(data=st.binary(max_size=60))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_whatever_bytes_come_are_refused(server, data):
    with pytest.raises(Refusal):
        parse(data, server.service.models, server.service.limits)


def test_a_number_that_is_infinite_only_when_read(server):
    status, _, body = server.request("POST", PATH, b'{"prompt": "a", "guidance": 1e999}')
    assert status == 400 and json.loads(body)["error"]["param"] == "guidance"


def test_ten_million_characters(server):
    status, _, body = server.request("POST", PATH, {"prompt": "a" * 10_000_000})
    assert status == 413 and json.loads(body)["error"]["code"] == "body_too_large"
    assert server.make(prompt="a", **SHORT)[0] == 200


def test_a_body_without_a_length_is_bounded_all_the_same(server):
    """In chunks, as of a client that does not say how much will come."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(200):
            connection.sendall(b"400\r\n" + b"a" * 1024 + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 413"


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", PATH, {"Content-Type": "text/plain"}, 415),
        ("POST", PATH, {}, 415),
        ("GET", PATH, {}, 405),
        ("OPTIONS", PATH, {"Origin": "https://example.com"}, 405),
        ("POST", "/v1/images/edits", JSON, 404),
        ("GET", "/docs", {}, 404),
        ("GET", "/v1/models/%2e%2e%2fetc%2fpasswd", {}, 404),
        ("GET", "/v1/models", {"Host": "example.com"}, 403),
        ("GET", "/v1/models", {"Host": "127.0.0.1.example.com:80"}, 403),
        ("GET", "/v1/models", {"Host": "127.0.0.1:80@example.com"}, 403),
        ("GET", "/v1/models", {"Host": "[::1].example.com"}, 403),
        ("GET", "/v1/models", {"Host": ""}, 403),
        ("GET", "/v1/models", {"Host": "[::1]:8000"}, 200),
        ("GET", "/v1/models", {"Host": "127.0.0.1"}, 200),
        ("HEAD", "/healthz", {}, 200),
    ],
)
def test_other_methods_places_and_types(server, method, path, headers, status):
    found, given, body = server.request(method, path, b"{}" if method == "POST" else None, headers)
    assert found == status and "access-control-allow-origin" not in given
    assert status == 200 or set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


def test_bytes_that_are_no_http_disturb_nobody(server):
    for data in (b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9\r\n\r\n", b"\r\n" * 1000):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(data)
    assert server.request("GET", "/healthz")[0] == 200


def test_a_body_that_does_not_come(bundle):
    def models():
        return [Model("tiny", bundle, Pipeline.open(bundle), {})]

    with served(models, Limits(timeout=0.2)) as running:
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", running.port), timeout=60) as connection:
            connection.sendall(f'{head}Content-Length: 100\r\n\r\n{{"prompt"'.encode())
            assert connection.recv(12) == b"HTTP/1.1 408"


# Who may ask


def test_keys(bundle):
    def models():
        return [Model("tiny", bundle, Pipeline.open(bundle), {})]

    with served(models, keys=(b"first", b"second")) as running:
        for given, status in (
            ({}, 401),
            ({"Authorization": "Bearer first"}, 200),
            ({"Authorization": "bearer second"}, 200),
            ({"Authorization": "Bearer firs"}, 401),
            ({"Authorization": "Bearer "}, 401),
            ({"Authorization": "Basic first"}, 401),
            ({"Authorization": "Bearer f\xefrst"}, 401),
        ):
            for path in ("/v1/models", "/metrics"):
                assert running.request("GET", path, headers=given)[0] == status
        for path in ("/", "/healthz", "/readyz"):
            assert running.request("GET", path, headers={})[0] == 200
        status, headers, _ = running.request("POST", PATH, {"prompt": "a"})
        assert status == 401 and headers["www-authenticate"] == "Bearer"
        wrong = openai.OpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key="third")
        with pytest.raises(openai.AuthenticationError):
            wrong.images.generate(prompt="a")


# Faults


def test_a_fault_says_nothing_of_the_inside(gated, capsys):
    gated.model.fault = RuntimeError(
        "/home/someone/bundle: 'the \x1b[2Jprompt of another'\nline two"
    )
    status, headers, answer = gated.make(prompt="a", **SHORT)
    assert (status, answer["error"]["message"]) == (500, NOT_MADE)
    _, _, stream = gated.request("POST", PATH, {"prompt": "a", "stream": True, **SHORT})
    *_, last = stream.decode().strip().split("\n\n")
    kind, data = last.split("\n")
    assert kind == "event: error" and json.loads(data[6:])["error"]["message"] == NOT_MADE
    gated.model.fault = None
    gated.model.let_through()
    assert gated.make(prompt="a", **SHORT)[0] == 200
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 2 and "RuntimeError: /home/someone/bundle" in error[0]
    # As the answer says: under its id. What moves a terminal's cursor is written as its escape.
    assert headers["x-request-id"] in error[0] and "\x1b" not in error[0]


def test_a_bug_in_a_route_is_a_line_and_an_answer(server, monkeypatch, capsys):
    def fail(*_):
        raise KeyError("/home/someone")

    monkeypatch.setattr("runtimes.serve.app.parse", fail)
    status, headers, body = server.request("POST", PATH, {"prompt": "a"})
    assert status == 500 and json.loads(body)["error"]["message"] == NOT_MADE
    until(lambda: headers["x-request-id"] in capsys.readouterr().err)


# The documentation


def test_the_documentation_has_every_field_and_the_limits_that_hold():
    text = (Path(__file__).parents[1] / "docs/serving.md").read_text(encoding="utf-8")
    table = text[text.index("| field |") : text.index("The answer is")]
    rows = [line.split("|")[1:] for line in table.splitlines()[2:] if line]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(named) == sorted(FIELDS)
    limits = Limits()
    for flag, value in (("n", limits.n), ("steps", limits.steps), ("prompt-chars", 4000)):
        assert f"`--max-{flag}`, {value}" in table
    assert limits.prompt_chars == 4000 and limits.body == 250_000 and limits.timeout == 60
