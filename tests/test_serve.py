"""The server as its clients see it: OpenAI's own client, and all that is no proper request."""

import asyncio
import base64
import io
import json
import re
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import openai
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from served import PATH, Gated, served, until

from runtimes.images import METADATA_KEY
from runtimes.pipeline import Pipeline
from runtimes.plan import Options
from runtimes.serve.clients import ClientGone, EventStream, unless_gone
from runtimes.serve.limits import Limits, Queueing
from runtimes.serve.mailbox import Mailbox
from runtimes.serve.model import Model
from runtimes.serve.server import lines_of_asyncio
from runtimes.serve.service import Service
from runtimes.serve.waiting import Failed, Finished, Progress, Queued

SHORT = {"steps": 2, "decoder_steps": 2}
PRESETS = {"fast": {"steps": 1, "decoder_steps": 1}}
LONG = "a red circle and a blue star " * 30


@pytest.fixture(scope="module")
def bundle(bundles):
    return bundles("one_level")


@pytest.fixture(scope="module")
def pipeline(bundle):
    with Pipeline.open(bundle) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(bundle):
    def models():
        return [Model("tiny", bundle, Pipeline.open(bundle), PRESETS)]

    with served(models, Limits(prompt_chars=1000, body=100_000), Queueing(window=0.01)) as running:
        yield running


@pytest.fixture
def gated(bundle):
    """A server whose model waits at every step, its queue of three pictures."""
    model = Gated("tiny", bundle, Pipeline.open(bundle), PRESETS, 2)
    with served(lambda: [model], Limits(n=3), Queueing(capacity=3, grace=60.0)) as running:
        running.model = model
        yield running
        model.let_through()


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none") as found:
        yield found


def pixels(text):
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return np.asarray(image).astype(int), getattr(image, "text", {})


def alone(pipeline, prompt, seed, **more):
    """What `Pipeline` makes of a prompt and a seed."""
    options = Options(seed=seed, **(SHORT | more))
    return pipeline(prompt, options=options).pictures[0].astype(int)


# OpenAI's client


def test_openais_client_gets_the_pictures_of_its_seed(client, pipeline):
    found = client.images.generate(
        prompt="a red ring", model="tiny", n=2, size="96x144", response_format="b64_json",
        extra_body={"seed": 7, "guidance": 2.0, **SHORT},
    )  # fmt: skip
    assert len(found.data) == 2 and found.size == "96x144" and found.output_format == "png"
    assert [each.seed for each in found.data] == [7, 8]
    for number, each in enumerate(found.data):
        made, text = pixels(each.b64_json)
        expected = alone(pipeline, "a red ring", 7 + number, guidance=2.0, height=144, width=96)
        assert made.shape == (144, 96, 3) and np.abs(made - expected).max() <= 1
        about = json.loads(text[METADATA_KEY])
        assert (about["prompt"], about["seed"], about["guidance"]) == (
            "a red ring",
            [7 + number],
            2,
        )


def test_openais_client_reads_the_stream(client, pipeline):
    stream = client.images.generate(
        prompt="a red ring", stream=True, partial_images=2, extra_body={"seed": 3, **SHORT}
    )
    events = list(stream)
    kinds = [event.type.removeprefix("image_generation.") for event in events]
    assert kinds[0] in ("queued", "progress") and kinds[-1] == "completed"
    assert kinds.count("completed") == 1 and 0 < kinds.count("partial_image") <= 2
    partial = [event for event in events if event.type.endswith("partial_image")]
    indices = [event.partial_image_index for event in partial]
    assert indices == sorted(indices) and set(indices) <= {0, 1}
    last = events[-1]
    made, _ = pixels(last.b64_json)
    assert np.abs(made - alone(pipeline, "a red ring", 3)).max() <= 1
    assert pixels(partial[0].b64_json)[0].size < made.size
    assert (last.seed, last.usage.total_tokens, last.size) == (3, 0, "144x144")


def test_the_stream_says_how_far_the_work_is(server):
    status, headers, body = server.request(
        "POST", PATH, {"prompt": "a", "n": 2, "stream": True, "seed": 1, **SHORT}
    )
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    events = [part.split("\n") for part in body.decode().split("\n\n") if part]
    data = []
    for kind, line in events:
        data.append(json.loads(line.removeprefix("data: ")))
        assert kind == f"event: {data[-1]['type']}"
    done = [each["done"] for each in data if each["type"].endswith("progress")]
    assert done == sorted(done) and all(0 < share <= 1 for share in done)
    completed = [each for each in data if each["type"].endswith("completed")]
    assert [(each["picture"], each["seed"]) for each in completed] == [(0, 1), (1, 2)]


def test_the_example_of_the_documentation(server, tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[1] / "docs/serving.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    exec(code.replace(":8000/", f":{server.port}/"), {})
    with Image.open(tmp_path / "picture.png") as picture:
        assert json.loads(picture.text[METADATA_KEY])["seed"] == [7]
    assert capsys.readouterr().out.splitlines()[-1] == "image_generation.completed"


def test_openais_client_lists_the_models(client):
    (model,) = client.models.list().data
    assert (model.id, model.default_size, model.presets) == ("tiny", "144x144", PRESETS)
    assert client.models.retrieve("tiny") == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_openais_client_understands_the_errors(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="a", extra_body={"steps": 0})
    assert (caught.value.param, caught.value.code) == ("steps", "invalid_value")
    with pytest.raises(openai.NotFoundError, match="there are: tiny"):
        client.images.generate(prompt="a", model="dall-e-3")


def test_several_models(bundle, pipeline):
    """The first is meant where none is named."""

    def models():
        presets = ({}, {"fast": {"steps": 1}})
        names = zip(("first", "second"), presets, strict=True)
        return [Model(name, bundle, Pipeline.open(bundle), preset) for name, preset in names]

    with served(models) as running:
        address = f"http://127.0.0.1:{running.port}/v1"
        with openai.OpenAI(base_url=address, api_key="none") as asking:
            assert [model.id for model in asking.models.list().data] == ["first", "second"]
            extra = {"seed": 5, **SHORT}
            made = [
                asking.images.generate(prompt="a", extra_body=extra, **named).data[0].b64_json
                for named in ({}, {"model": "second"})
            ]
        assert made[0] == made[1]
        assert np.abs(pixels(made[0])[0] - alone(pipeline, "a", 5)).max() <= 1
        assert running.make(prompt="a", preset="fast")[2]["error"]["param"] == "preset"
        assert running.make(prompt="a", model="second", preset="fast", **SHORT)[0] == 200


def test_a_preset_gives_way_to_what_is_written(server):
    def about(**fields):
        _, _, answer = server.make(prompt="a", **fields)
        return json.loads(pixels(answer["data"][0]["b64_json"])[1][METADATA_KEY])

    assert len(about(preset="fast")["timesteps"]) == 2
    both = about(preset="fast", steps=3)
    assert (len(both["timesteps"]), len(both["decoder_timesteps"])) == (4, 2)


def test_a_seed_is_drawn_and_reported(server, pipeline):
    answers = [server.make(prompt="a", **SHORT)[2]["data"][0] for _ in range(2)]
    assert answers[0]["seed"] != answers[1]["seed"]
    made, _ = pixels(answers[0]["b64_json"])
    assert np.abs(made - alone(pipeline, "a", answers[0]["seed"])).max() <= 1


def test_what_was_cut_off_is_said_to_whom_it_belongs(server):
    """Made in one batch with another's, whose text is not shown."""
    found = {}

    def ask(word):
        found[word] = server.make(prompt=f"{LONG}{word}", seed=1, **SHORT)[2]

    threads = [threading.Thread(target=ask, args=(word,)) for word in ("secret", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for word, other in (("secret", "other"), ("other", "secret")):
        (lost,) = found[word]["truncated"]
        assert lost["param"] == "prompt" and lost["lost"] and other not in json.dumps(found[word])


# The page, metrics, the log


def test_the_page_may_load_nothing_from_elsewhere(server):
    status, headers, body = server.request("GET", "/", headers={})
    assert status == 200 and headers["content-type"] == "text/html; charset=utf-8"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert body.lstrip().lower().startswith(b"<!doctype html>")


def test_metrics_count_what_was_made(server):
    def samples():
        text = server.request("GET", "/metrics", headers={})[2].decode()
        families = text_string_to_metric_families(text)
        return {(s.name, *sorted(s.labels.values())): s.value for f in families for s in f.samples}

    before = samples()
    server.make(prompt="a", n=3, **SHORT)
    server.make(prompt="a", n=0)
    server.request("GET", "/a/path/of/a/stranger", headers={})
    after = samples()

    def more(*key):
        return after.get(key, 0) - before.get(key, 0)

    assert more("wuerstchen_pictures_total", "tiny") == 3
    assert (
        more("wuerstchen_requests_total", PATH, "200")
        == 1
        == more("wuerstchen_requests_total", PATH, "400")
    )
    assert more("wuerstchen_requests_total", "404", "other") == 1
    assert after["wuerstchen_waiting_pictures",] == after["wuerstchen_running_pictures",] == 0
    assert after["process_resident_memory_bytes",] > 0
    assert not any("stranger" in str(key) for key in after)


def test_the_log_has_a_line_a_request_and_no_prompt(bundle, capsys):
    def models():
        return [Model("tiny", bundle, Pipeline.open(bundle), {})]

    with served(models, quiet=False) as running:
        _, headers, _ = running.make(prompt="my own secret", n=2, **SHORT)
        running.make(prompt="my own secret", n=0)
        running.request("GET", "/my-own-secret", headers={})
    first, *lines, last = capsys.readouterr().err.splitlines()
    assert first == f"serving tiny on http://127.0.0.1:{running.port}"
    assert len(lines) == 3 and "secret" not in "".join(lines) and last.startswith("stopping: ")
    assert lines[0].startswith(f"{headers['x-request-id']} POST {PATH} 200 ")
    assert lines[0].endswith(" s, 2 pictures")
    assert [line.split()[1:4] for line in lines[1:]] == [
        ["POST", PATH, "400"],
        ["GET", "other", "404"],
    ]


def test_what_asyncio_says_is_a_line_and_not_said_again_and_again(capsys):
    say = lines_of_asyncio(Service(Limits(), Queueing()))
    with closing(asyncio.new_event_loop()) as loop:
        for what in ("socket.accept() out of system resource", "another"):
            for _ in range(3):
                say(loop, {"message": what, "exception": OSError(24, "Too many open files")})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == (
        "error: socket.accept() out of system resource: OSError: [Errno 24] Too many open files"
    )
    assert len(lines) == 2 and lines[1].startswith("error: another: ")


# Many at once


def test_requests_that_come_together_are_made_together(gated):
    """And each gets its own picture."""
    first = gated.asking(prompt="a", **SHORT)
    gated.model.arrived.acquire()  # the worker is busy, and the next two wait
    found = {}

    def ask(word):
        found[word] = gated.make(prompt=word, seed=len(word), **SHORT)

    threads = [threading.Thread(target=ask, args=(word,)) for word in ("b", "cc")]
    for thread in threads:
        thread.start()
    until(lambda: gated.service.batcher.load == (2, 1))
    gated.model.let_through()
    for thread in threads:
        thread.join()
    first.close()
    assert gated.model.batches_made == 2
    assert {word: found[word][2]["data"][0]["seed"] for word in found} == {"b": 1, "cc": 2}


def test_a_full_queue(gated):
    first = gated.asking(prompt="a", **SHORT)
    gated.model.arrived.acquire()
    second = gated.asking(prompt="b", n=3, **SHORT)
    until(lambda: gated.service.batcher.load == (3, 1))
    status, headers, answer = gated.make(prompt="c", **SHORT)
    assert (status, answer["error"]["code"]) == (429, "queue_full")
    assert (
        int(headers["retry-after"]) >= 1 and "3 pictures are waiting" in answer["error"]["message"]
    )
    # OpenAI's client asks again by itself, after as long as it was told.
    gated.model.let_through()
    with openai.OpenAI(base_url=f"http://127.0.0.1:{gated.port}/v1", api_key="none") as client:
        assert client.images.generate(prompt="c", extra_body=SHORT).data
    first.close()
    second.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_stops_its_work(gated, stream):
    gone = gated.asking(prompt="a", stream=stream, **SHORT)
    gated.model.arrived.acquire()
    waits = gated.asking(prompt="b", n=2, stream=stream, **SHORT)
    until(lambda: gated.service.batcher.load == (2, 1))
    waits.close()
    until(lambda: gated.service.batcher.load == (0, 1))  # it never starts
    gone.close()
    until(lambda: all(p.ticket.gone for p in gated.service.batcher._running))
    gated.model.let_through()
    until(lambda: gated.service.batcher.load == (0, 0))
    assert (gated.model.steps, gated.model.batches_made) == (0, 0)
    assert gated.make(prompt="c", **SHORT)[0] == 200


def test_a_reader_that_reads_nothing_holds_up_nobody(server):
    slow = [server.asking(prompt="a", n=4, stream=True, partial_images=10) for _ in range(2)]
    for _ in range(3):
        assert server.make(prompt="b", **SHORT)[0] == 200
    until(lambda: server.service.batcher.load == (0, 0))
    for connection in slow:
        assert connection.recv(12) == b"HTTP/1.1 200"
        connection.close()


def test_of_progress_only_the_newest_is_kept():
    async def kept():
        mailbox = Mailbox()
        for step in range(1000):
            mailbox.tell(Progress("stage_c", step, 1000, step / 1000))
        mailbox.tell(Finished(0, None))
        await asyncio.sleep(0)
        found = await mailbox.take()
        mailbox.tell(Failed(None))
        mailbox.tell(Queued(3))
        await asyncio.sleep(0)
        return found, await mailbox.take()

    first, second = asyncio.run(kept())
    assert first == [Progress("stage_c", 999, 1000, 0.999), Finished(0, None)]
    assert second == [Failed(None)]


def test_a_reader_that_stalls_is_given_up():
    async def events():
        yield b"data: 1\n\n"

    async def never(*_):
        await asyncio.Event().wait()

    ended = []

    async def run():
        stream = EventStream(events(), ended=lambda: ended.append(True), stalled=0.01)
        await stream({"type": "http"}, never, never)

    with pytest.raises(ClientGone):
        asyncio.run(run())
    assert ended == [True]


def test_work_is_cancelled_with_its_client():
    cancelled = []

    async def work():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def receive():
        return {"type": "http.disconnect"}

    with pytest.raises(ClientGone):
        asyncio.run(unless_gone(receive, work()))
    assert cancelled == [True]


# The end


def test_stopping_finishes_what_was_asked_for(gated):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(gated.make(prompt="a", n=2, **SHORT)[0]))
        for _ in range(2)
    ]
    threads[0].start()
    gated.model.arrived.acquire()
    threads[1].start()
    until(lambda: gated.service.batcher.load == (2, 2))
    gated.signals.append(15)
    until(lambda: gated.request("GET", "/readyz", headers={})[0] == 503)
    status, headers, answer = gated.make(prompt="b", **SHORT)
    assert (status, answer["error"]["code"]) == (503, "shutting_down")
    assert headers["retry-after"] and gated.request("GET", "/healthz", headers={})[0] == 200
    gated.model.let_through()
    for thread in threads:
        thread.join()
    gated.thread.join(60)
    assert found == [200, 200] and gated.ended == [True]


def test_what_is_not_made_in_time_is_refused(bundle):
    model = Gated("tiny", bundle, Pipeline.open(bundle), {}, 1)
    with served(lambda: [model], queueing=Queueing(grace=0.0)) as running:
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(running.make(prompt="a", **SHORT)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        until(lambda: running.service.batcher.load == (1, 1))
        running.signals.append(2)
        for thread in threads:
            thread.join()
        model.let_through()
        running.thread.join(60)
    assert [status for status, _, _ in found] == [503, 503]
    assert {answer["error"]["code"] for _, _, answer in found} == {"shutting_down"}


@pytest.mark.parametrize("signals", [[15], [15, 15]])
def test_nobody_waits_for_a_step_that_nobody_waits_for(bundle, signals):
    """The thread is inside a graph and cannot be stopped: the process has to end under it."""
    model = Gated("tiny", bundle, Pipeline.open(bundle), {}, 1)
    grace = 3600.0 if len(signals) == 2 else 0.0
    with served(lambda: [model], queueing=Queueing(grace=grace)) as running:
        asking = running.asking(prompt="a", **SHORT)
        model.arrived.acquire()
        running.signals += signals
        running.thread.join(60)
        assert running.ended == [False] and asking.recv(12) == b"HTTP/1.1 503"
        asking.close()
        model.let_through()


def test_a_signal_ends_what_is_still_being_opened(bundle):
    opening = threading.Event()

    def models():
        opening.wait(60)
        return [Model("tiny", bundle, Pipeline.open(bundle), {})]

    with served(models, ready=False) as running:
        assert running.request("GET", "/healthz", headers={})[0] == 200
        running.signals.append(15)
        running.thread.join(30)
        assert running.ended == [False]
        opening.set()


def test_before_the_models_are_open(bundle):
    opening = threading.Event()

    def models():
        assert opening.wait(60)
        return [Model("tiny", bundle, Pipeline.open(bundle), {})]

    with served(models, ready=False) as running:
        assert running.request("GET", "/healthz", headers={})[0] == 200
        for path in ("/readyz", "/v1/models"):
            assert running.request("GET", path, headers={})[0] == 503
        assert running.make(prompt="a")[2]["error"]["code"] == "not_ready"
        opening.set()
        until(lambda: running.request("GET", "/readyz", headers={})[0] == 200)
