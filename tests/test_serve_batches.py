"""The server's queue: who is made with whom, in which order, and what becomes of the others.

Time is a number that the tests set; models are real bundles where pictures are compared, and
otherwise the smallest thing that can be asked for a batch.
"""

import io
import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from PIL import Image

from runtimes.errors import RunError, UsageError
from runtimes.images import METADATA_KEY, png_bytes
from runtimes.pipeline import Pipeline
from runtimes.plan import Options, make_plan
from runtimes.serve.batcher import UNMEASURED, Batcher, Counts
from runtimes.serve.limits import Limits
from runtimes.serve.model import Made, Model
from runtimes.serve.refusal import NOT_MADE, Refusal
from runtimes.serve.schema import Order, parse
from runtimes.serve.waiting import Failed, Finished, Preview, Progress, Queued, Ticket, Waiting

SHORT = Options(steps=2, decoder_steps=2)
PIXELS = np.zeros((2, 2, 3), np.uint8)


@dataclass
class Clock:
    """Seconds, which go by when a test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class Recorder:
    """Stands for a model: says what it was asked for; `fault` may raise, and `steps` are run."""

    name: str = "m"
    preview_kind: str | None = None
    asked: list = field(default_factory=list)
    fault: object = None
    steps: int = 1
    clock: Clock | None = None
    seconds: float = 0.0

    def make(self, pictures, options, on_step, on_preview=None, preview_every=1):
        self.asked.append([(picture.prompt, picture.seed) for picture in pictures])
        if self.clock is not None:
            self.clock.now += self.seconds
        for step in range(self.steps):
            on_step("stage_c", step + 1, self.steps)
            if on_preview is not None:
                on_preview(step + 1, self.steps, np.stack([PIXELS] * len(pictures)))
        if self.fault is not None:
            self.fault(pictures)
        return [Made(PIXELS, picture.seed, {}, {}) for picture in pictures]


@pytest.fixture(scope="module")
def sampling(bundles):
    return bundles("one_level").manifest.sampling


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def order(sampling):
    def make(model, prompt, seeds=(0,), options=SHORT, **more):
        plan = make_plan(sampling, options, 1, None)
        return Order(model, prompt, "", tuple(seeds), options, plan, **more)

    return make


def batcher(clock, *, window=0.0, capacity=64, most=4, counts=None) -> Batcher:
    return Batcher(
        window=window,
        capacity=capacity,
        most=lambda order: most,
        counts=counts or Counts(),
        clock=clock,
    )


def submit(line, order) -> tuple[Ticket, list]:
    news = []
    ticket = Ticket(order, news.append, f"id of {order.prompt}")
    line.submit(ticket)
    return ticket, news


def kinds(news) -> list[type]:
    return [type(each) for each in news]


# Who is made with whom


def test_whatever_changes_the_shape_of_a_run_keeps_requests_apart(order):
    """And nothing else does: prompts, seeds, and how an option is written."""
    model, other = Recorder("m"), Recorder("n")
    apart = [
        order(model, "a"),
        order(other, "a"),
        *[
            order(model, "a", options=replace(SHORT, **{name: value}))
            for name, value in (
                ("height", 96), ("width", 96), ("steps", 3), ("decoder_steps", 3),
                ("guidance", 2.0), ("decoder_guidance", 2.0), ("guidance", 3.0),
            )
        ],
        order(other, "a", options=replace(SHORT, steps=None, timesteps=(1.0, 0.25, 0.0))),
    ]  # fmt: skip
    assert len({each.likeness for each in apart}) == len(apart)
    written = replace(SHORT, height=144, width=144, guidance=apart[0].plan.guidance)
    alike = [order(model, "b", seeds=(1, 2)), order(model, "a", options=written)]
    assert {each.likeness for each in alike} == {apart[0].likeness}


def test_requests_of_equal_options_are_one_batch(clock, order):
    model, line = Recorder(), batcher(clock)
    for prompt, options in (
        ("a", SHORT),
        ("b", replace(SHORT, steps=3)),
        ("c", SHORT),
        ("d", replace(SHORT, guidance=2.0)),
        ("e", replace(SHORT, steps=3)),
    ):
        submit(line, order(model, prompt, options=options))
    while any(line.load):
        assert line.work_once()
    prompts = [[prompt for prompt, _ in batch] for batch in model.asked]
    assert prompts == [["a", "c"], ["b", "e"], ["d"]]


def test_what_options_mean_counts_and_not_how_they_are_written(clock, order, sampling):
    written = [
        SHORT,
        replace(SHORT, guidance=sampling.stage_c.guidance),
        replace(SHORT, height=sampling.height, width=sampling.width),
        replace(SHORT, height=sampling.height - 1),  # the same latents, and so the same picture
    ]
    model, line = Recorder(), batcher(clock)
    for number, options in enumerate(written):
        submit(line, order(model, str(number), options=options))
    line.work_once()
    assert [len(batch) for batch in model.asked] == [4]


def test_models_are_never_mixed(clock, order):
    one, other, line = Recorder("one"), Recorder("other"), batcher(clock)
    for model in (one, other, one):
        submit(line, order(model, "a"))
    line.work_once()
    line.work_once()
    assert (len(one.asked[0]), len(other.asked[0]), line.load) == (2, 1, (0, 0))


def test_a_large_request_is_made_in_parts(clock, order):
    model, line = Recorder(), batcher(clock, most=2)
    ticket, news = submit(line, order(model, "a", seeds=range(5, 10)))
    submit(line, order(model, "b", seeds=(1,)))
    for _ in range(3):
        line.work_once()
    assert model.asked == [[("a", 5), ("a", 6)], [("a", 7), ("a", 8)], [("a", 9), ("b", 1)]]
    finished = [each for each in news if isinstance(each, Finished)]
    assert [(each.picture, each.made.seed) for each in finished] == list(enumerate(range(5, 10)))
    assert ticket.left == 0


def test_nobody_waits_behind_those_who_came_later(order):
    """However many of the other kind come, the oldest picture is in the next batch."""
    model, waiting = Recorder(), Waiting(0.0, lambda order: 2)
    other = replace(SHORT, steps=3)
    waiting.add(Ticket(order(model, "rare", options=other), print), 0)
    for number in range(50):
        waiting.add(Ticket(order(model, str(number)), print), number)
    assert [each.prompt for each in waiting.take(100)] == ["rare"]
    waiting.add(Ticket(order(model, "rare", options=other), print), 101)
    batches = [[each.prompt for each in waiting.take(200)] for _ in range(26)]
    assert batches[:25] == [[str(2 * n), str(2 * n + 1)] for n in range(25)]
    assert batches[25] == ["rare"]


def test_the_window_is_waited_for_unless_the_batch_is_full(order):
    model, waiting = Recorder(), Waiting(0.5, lambda order: 2)
    waiting.add(Ticket(order(model, "a"), print), 10.0)
    assert waiting.take(10.25) == [] and waiting.due_in(10.25) == 0.25
    waiting.add(Ticket(order(model, "b"), print), 10.25)
    assert [each.prompt for each in waiting.take(10.25)] == ["a", "b"]
    waiting.add(Ticket(order(model, "c"), print), 11.0)
    assert waiting.take(11.25) == [] and [each.prompt for each in waiting.take(11.5)] == ["c"]
    assert waiting.due_in(12.0) is None


# Room


def test_a_full_queue_says_when_there_will_be_room(clock, order):
    model = Recorder(clock=clock, seconds=6.0)
    line = batcher(clock, capacity=4, most=2)
    submit(line, order(model, "a", seeds=range(4)))
    with pytest.raises(Refusal) as caught:
        submit(line, order(model, "b"))
    assert (caught.value.status, caught.value.retry_after) == (429, UNMEASURED)
    line.work_once()  # two pictures in six seconds
    submit(line, order(model, "b", seeds=range(2)))
    with pytest.raises(Refusal) as caught:
        submit(line, order(model, "c", seeds=range(2)))
    assert (caught.value.status, caught.value.retry_after) == (429, 2 * 3)
    assert line.load == (4, 0)


def test_the_place_in_the_queue_is_told(clock, order):
    model, line = Recorder(), batcher(clock, most=2)
    heard = [submit(line, order(model, prompt, seeds=(1, 2)))[1] for prompt in "abc"]
    assert [news[0] for news in heard] == [Queued(0), Queued(2), Queued(4)]
    line.work_once()
    assert [kinds(news).count(Queued) for news in heard] == [1, 2, 2]
    assert (heard[1][-1], heard[2][-1]) == (Queued(2), Queued(4))
    line.work_once()
    assert heard[2][-1] == Queued(2)


# Clients that go away


def test_who_goes_away_while_waiting_makes_room(clock, order):
    model, line = Recorder(), batcher(clock, capacity=2)
    ticket, news = submit(line, order(model, "a", seeds=(1, 2)))
    line.cancel(ticket)
    submit(line, order(model, "b", seeds=(3, 4)))
    line.work_once()
    assert model.asked == [[("b", 3), ("b", 4)]] and kinds(news) == [Queued]


def test_a_batch_stops_at_the_step_at_which_everybody_has_gone(clock, order):
    tickets, line = [], batcher(clock)
    counts = []

    class Leaving(Recorder):
        def make(self, pictures, options, on_step, on_preview=None, preview_every=1):
            for step in range(1, 10):
                if step in (3, 5):
                    line.cancel(tickets[step // 4])
                on_step("stage_c", step, 9)
                counts.append(step)
            raise AssertionError("nobody stopped it")

    model = Leaving()
    heard = []
    for prompt in "ab":
        ticket, news = submit(line, order(model, prompt))
        tickets.append(ticket)
        heard.append(news)
    assert line.work_once()
    assert counts == [1, 2, 3, 4] and line.load == (0, 0)
    assert kinds(heard[1]) == [Queued, *[Progress] * 4]


def test_a_stopped_run_leaves_the_pipeline_as_it_was(bundles, clock, order):
    """The next picture is the one that a pipeline makes that was never stopped."""
    bundle = bundles("one_level")
    with Pipeline.open(bundle) as pipeline, Pipeline.open(bundle) as other:
        model, line = Model("m", bundle, pipeline, {}), batcher(clock)
        stopped = []

        def hear(news):
            stopped.append(type(news))
            if isinstance(news, Progress):
                line.cancel(ticket)

        ticket = Ticket(order(model, "a"), hear)
        line.submit(ticket)
        line.work_once()
        assert stopped == [Queued, Progress]
        _, news = submit(line, order(model, "a", seeds=(7,)))
        line.work_once()
        assert np.array_equal(
            news[-1].made.pixels, other("a", options=replace(SHORT, seed=[7])).pictures[0]
        )


# Faults


def test_what_fails_in_company_fails_alone(clock, order):
    def fault(pictures):
        if any(picture.prompt == "bad" for picture in pictures):
            raise RunError("stage_c: NaN of 'bad' in /home/someone/bundle")

    failures = []
    line = batcher(clock, counts=Counts(failed=lambda *why: failures.append(why)))
    model = Recorder(fault=fault)
    heard = {prompt: submit(line, order(model, prompt))[1] for prompt in ("a", "bad", "b")}
    line.work_once()
    assert [type(heard[prompt][-1]) for prompt in heard] == [Finished, Failed, Finished]
    refusal = heard["bad"][-1].refusal
    assert (refusal.status, refusal.message) == (500, NOT_MADE)
    ((error, request),) = failures  # once, under the request's own id
    assert "NaN" in str(error) and request == "id of bad" and line.load == (0, 0)


def test_how_many_fit_may_fail(clock, order):
    """It asks the system how much memory is free: that ends a request, not the worker."""

    def most(order):
        if order.prompt == "bad":
            raise OSError("too many open files")
        return 4

    line = Batcher(window=0.0, capacity=9, most=most, counts=Counts(), clock=clock)
    model = Recorder()
    _, bad = submit(line, order(model, "bad", seeds=(1, 2)))
    _, good = submit(line, order(model, "good", options=replace(SHORT, steps=3)))
    line.work_once()
    assert kinds(bad) == [Queued, Failed] and kinds(good)[-1] is Finished


@pytest.mark.parametrize("error", [ValueError("a bug"), MemoryError(), KeyError("x")])
def test_a_bug_ends_one_request_and_not_the_worker(clock, order, error):
    def fault(pictures):
        if pictures[0].prompt == "bad":
            raise error

    line, model = batcher(clock, most=1), Recorder(fault=fault)
    _, bad = submit(line, order(model, "bad", seeds=(1, 2)))
    _, good = submit(line, order(model, "good"))
    while any(line.load):
        assert line.work_once()
    assert kinds(bad).count(Failed) == 1 and isinstance(good[-1], Finished)
    assert model.asked == [[("bad", 1)], [("good", 0)]]  # its other picture is not tried


def test_too_little_memory_is_said_without_figures(clock, order):
    def fault(pictures):
        raise UsageError("1 x 64 x 64 pixels need about 9 GB of memory and 1 GB are free")

    line = batcher(clock)
    _, news = submit(line, order(Recorder(fault=fault), "a"))
    line.work_once()
    refusal = news[-1].refusal
    assert (refusal.status, refusal.code) == (503, "not_enough_memory")
    assert refusal.retry_after and "GB" not in refusal.message


# The end


def test_after_leaving_nobody_is_let_in_and_what_waits_is_made(clock, order):
    model, line = Recorder(), batcher(clock)
    _, news = submit(line, order(model, "a"))
    line.leave()
    with pytest.raises(Refusal) as caught:
        submit(line, order(model, "b"))
    assert caught.value.status == 503
    line.work_once()
    assert isinstance(news[-1], Finished)


def test_who_leaves_waits_for_no_company(clock, order):
    line = batcher(clock, window=3600.0)
    _, news = submit(line, order(Recorder(), "a"))
    line.leave()
    line.work_once()  # at once: time does not go by here
    assert isinstance(news[-1], Finished)


def test_the_rest_is_refused_and_the_worker_ends(clock, order):
    line, heard = batcher(clock, most=1), []

    def fault(pictures):
        line.refuse_rest()

    model = Recorder(fault=fault, steps=2)
    heard = [submit(line, order(model, prompt))[1] for prompt in "ab"]
    line.work()  # returns: there is nothing more to do
    assert [each.refusal.status for news in heard for each in news if type(each) is Failed] == [
        503,
        503,
    ]
    assert line.load == (0, 0) and len(model.asked) == 1


# Previews and progress


@pytest.mark.parametrize(
    ("asked", "steps", "expected"),
    [(1, 10, [5]), (2, 9, [3, 6]), (3, 8, [2, 4, 6]), (5, 2, [1, 2])],
)
def test_previews_are_spread_over_the_steps(clock, order, asked, steps, expected):
    model, line = Recorder(preview_kind="linear", steps=steps), batcher(clock)
    options = replace(SHORT, steps=steps)
    shown = []

    def hear(news):
        if isinstance(news, Progress):
            shown.append(news.step)
        if isinstance(news, Preview):
            heard.append((shown[-1], news.index))

    heard = []
    line.submit(Ticket(order(model, "a", options=options, partial_images=asked), hear))
    _, others = submit(line, order(model, "b", options=options))
    line.work_once()
    assert heard == [(step, index) for index, step in enumerate(expected)]
    assert Preview not in kinds(others)


def test_no_previews_are_made_where_nobody_wants_them(clock, order):
    class Strict(Recorder):
        def make(self, pictures, options, on_step, on_preview=None, preview_every=1):
            self.asked.append(on_preview is not None)
            return [Made(PIXELS, picture.seed, {}, {}) for picture in pictures]

    for kind, asked, expected in (("graph", 0, False), (None, 2, False), ("graph", 2, True)):
        model, line = Strict(preview_kind=kind), batcher(clock)
        submit(line, order(model, "a", partial_images=asked))
        line.work_once()
        assert model.asked == [expected]


def test_progress_counts_all_pictures_of_a_request(clock, order):
    model, line = Recorder(steps=2), batcher(clock, most=2)
    _, news = submit(line, order(model, "a", seeds=range(4)))
    line.work_once()
    line.work_once()
    # Half a run each for Stage C, of which two steps are run for each of two batches.
    assert [each.done for each in news if isinstance(each, Progress)] == [0.125, 0.25, 0.625, 0.75]


# Pictures


def test_a_picture_of_a_batch_is_the_one_made_alone(bundles, clock, order):
    """By `Pipeline` itself, one by one, each from its own seed: within 1 of 255 levels."""
    bundle = bundles("one_level")
    wanted = [("a red ring", (7, 8)), ("a blue star", (9,)), ("", (1 << 40,))]
    with Pipeline.open(bundle) as pipeline:
        model, line = Model("m", bundle, pipeline, {}), batcher(clock, most=8)
        heard = [submit(line, order(model, prompt, seeds=seeds))[1] for prompt, seeds in wanted]
        line.work_once()
        assert line.load == (0, 0)  # one batch of four
        for (prompt, seeds), news in zip(wanted, heard, strict=True):
            made = [each.made for each in news if isinstance(each, Finished)]
            assert [each.seed for each in made] == list(seeds)
            for picture in made:
                options = replace(SHORT, seed=picture.seed)
                alone = pipeline(prompt, options=options).pictures[0].astype(int)
                assert np.abs(picture.pixels - alone).max() <= 1  # products round by their shape


def test_each_picture_of_a_batch_has_its_own_negative_prompt(bundles, clock, order):
    bundle, options = bundles("one_level"), replace(SHORT, guidance=8.0)
    with Pipeline.open(bundle) as pipeline:
        model, line = Model("m", bundle, pipeline, {}), batcher(clock)
        orders = [
            replace(order(model, "a ring", options=options), negative=negative)
            for negative in ("", "a blue star on a white ground")
        ]
        made = [submit(line, each)[1] for each in orders]
        line.work_once()
        pixels = [news[-1].made.pixels.astype(int) for news in made]
        for each, found in zip(orders, pixels, strict=True):
            run = replace(options, seed=[0])
            alone = pipeline(each.prompt, each.negative, options=run).pictures[0]
            assert np.abs(found - alone).max() <= 1
    assert np.abs(pixels[0] - pixels[1]).max() > 1


def test_a_file_says_how_its_picture_was_made(bundles, order):
    bundle = bundles("one_level")
    with Pipeline.open(bundle) as pipeline:
        model = Model("m", bundle, pipeline, {})
        line = batcher(Clock())
        _, news = submit(line, order(model, "a réd ring", seeds=(3, 4)))
        line.work_once()
    data = png_bytes(news[-1].made.pixels, dict(news[-1].made.parameters))
    with Image.open(io.BytesIO(data)) as image:
        text = image.text[METADATA_KEY]
    assert '"prompt": "a réd ring"' in text and '"seed": [4]' in text and '"index": 1' in text
    assert str(bundle.folder) not in text


@pytest.mark.parametrize(
    ("precision", "asked", "most"),
    [
        ("fp32", None, 8),
        ("fp32", 3, 3),
        ("int8", None, 1),
        ("int8", 3, 3),
        ("int4-weights", None, 1),
        ("int8-dynamic", None, 1),
        ("int8-dynamic", 3, 1),
    ],
)
def test_what_a_batch_would_change_is_made_one_by_one(bundles, monkeypatch, precision, asked, most):
    monkeypatch.setattr("runtimes.estimate.available_memory", lambda: 1 << 40)
    bundle = bundles("one_level")
    graphs = dict(bundle.manifest.graphs)
    graphs["stage_b"] = replace(graphs["stage_b"], precision=precision)
    rounded = replace(bundle, manifest=replace(bundle.manifest, graphs=graphs))
    with Pipeline.open(bundle) as pipeline:
        model = Model("m", rounded, pipeline, {}, asked)
        assert model.most(SHORT) == most and bool(model.one_by_one) == (most == 1)


def test_what_a_model_says_of_itself(bundles):
    bundle = bundles("one_level")
    with Pipeline.open(bundle) as pipeline:
        about = Model("m", bundle, pipeline, {"fast": {"steps": 3}}).about(Limits(n=2))
        made = {
            side: pipeline("", options=replace(SHORT, height=side, width=side)).sizes.picture
            for side in about["sides"][:4]
        }
    assert about["sides"] and made == {side: (side, side) for side in made}
    assert about["size_multiple"] == about["sides"][0]
    assert about["limits"]["n"] == 2 and about["presets"] == {"fast": {"steps": 3}}
    assert about["defaults"]["steps"] == 29 and about["defaults"]["decoder_steps"] == 12


@pytest.mark.parametrize(
    ("limits", "presets", "message"),
    [
        (Limits(steps=28), {}, "--max-steps is 28, and m makes pictures of 29 steps where"),
        (Limits(pixels=20_735), {}, "--max-pixels is 20,735, and m makes pictures of 20,736 pix"),
        (Limits(steps=29, pixels=20_736), {"fast": {"steps": 29}}, ""),
    ],
)
def test_what_is_offered_is_within_the_limits(bundles, limits, presets, message):
    bundle = bundles("one_level")
    with Pipeline.open(bundle) as pipeline:
        model = Model("m", bundle, pipeline, presets)
        if not message:
            model.check_offer(limits)
            return
        with pytest.raises(UsageError, match=message):
            model.check_offer(limits)


@pytest.mark.slow
def test_a_batch_of_fixed_size_is_filled_up(bundles, order, clock):
    from exporter.options import ExportOptions

    options = ExportOptions(static=True, batch_size=2)
    bundle = bundles("one_level", options)
    with Pipeline.open(bundle) as pipeline:
        with pytest.raises(UsageError, match=r"--max-batch 3: .* batch of 2; leave it out"):
            Model("m", bundle, pipeline, {}, 3)
        with pytest.raises(UsageError, match="--presets: m cannot make 'plain': stage_c was exp"):
            Model("m", bundle, pipeline, {"plain": {"guidance": 1.0}}).check_offer(Limits())
        model = Model("m", bundle, pipeline, {})
        line = Batcher(
            window=0.0,
            capacity=9,
            most=lambda order: order.model.most(order.options),
            counts=Counts(),
            clock=clock,
        )
        _, news = submit(line, order(model, "a", seeds=(5, 6, 7)))
        line.work_once()
        line.work_once()
        for fields, param in (({"size": "96x96"}, "size"), ({"guidance": 1}, "guidance")):
            body = json.dumps({"prompt": "a", **fields}).encode()
            with pytest.raises(Refusal) as caught:
                parse(body, {"m": model}, Limits())
            assert (caught.value.status, caught.value.param) == (400, param)
        made = [each.made.pixels for each in news if isinstance(each, Finished)]
        alone = pipeline(["a", "a"], options=replace(SHORT, seed=[7, 7])).pictures[0]
    assert len(made) == 3 and np.abs(made[2] - alone.astype(int)).max() <= 1
