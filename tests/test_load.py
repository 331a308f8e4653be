"""Threads and processes at once make the pictures of one run after the other, and leave nothing.

TRUST_PICTURES=10000 and TRUST_SEEDS=1000 in the environment are the long forms, by hand.
"""

import os
import threading

import pytest
from broken import giving, with_weight

from runtimes.pipeline import Pipeline
from runtimes.plan import Options
from validation.trust.load import load
from validation.trust.seeds import Counted, seeds
from validation.trust.together import Opened, from_processes, from_threads, one_by_one

# Two sizes, with and without guidance: engines compile for shapes, and threads meet.
RUNS = [
    Options(seed=seed, steps=2, decoder_steps=1, guidance=4 * (seed % 2), height=height)
    for seed, height in enumerate([128] * 4 + [192] * 4)
]
TINY = Options(steps=1, decoder_steps=1)
PICTURES = int(os.environ.get("TRUST_PICTURES", "300"))
SEEDS = int(os.environ.get("TRUST_SEEDS", "20"))
# MB of memory per 1,000 pictures, of which one measures 0.3 MB as numbers: 300 MB if each stayed.
# An allocator that has not found its final size yet grows by 1 to 2 over the first hundreds.
GROWTH = 5.0
ENGINES = ("onnxruntime", "openvino")
KEPT = pytest.mark.parametrize("low_memory", [False, True], ids=["kept", "one_at_a_time"])


@pytest.mark.slow
@KEPT
@pytest.mark.parametrize("engine", ENGINES)
def test_threads_at_once_make_the_same_pictures(bundles, engine, low_memory):
    opened = Opened(bundles("one_level").folder, engine, low_memory)
    runs = RUNS[2:6] if low_memory and engine == "openvino" else RUNS  # compiled for each picture
    assert from_threads(opened, runs) == one_by_one(opened, runs)


@pytest.mark.slow
@KEPT
@pytest.mark.parametrize("engine", ENGINES)
def test_processes_at_once_make_the_same_pictures(bundles, engine, low_memory):
    opened = Opened(bundles("one_level").folder, engine, low_memory)
    alone = one_by_one(opened, RUNS[:1])
    assert from_processes(opened, RUNS[:1]) == [alone] * 4


def test_a_run_waits_for_another_threads_and_not_for_its_own(bundles):
    steps, begun, may_go_on = [], threading.Event(), threading.Event()

    def first(stage, done, total):
        if not begun.is_set():
            begun.set()
            pipeline("within", "", TINY)
            may_go_on.wait(1)
        steps.append("first")

    with Pipeline.open(bundles("one_level")) as pipeline:
        one = threading.Thread(target=pipeline, args=("a", "", TINY), kwargs={"on_step": first})
        one.start()
        assert begun.wait(60)
        second = threading.Thread(
            target=pipeline,
            args=("b", "", TINY),
            kwargs={"on_step": lambda *step: steps.append("second")},
        )
        second.start()
        second.join(0.2)  # time to pass the first one, if it could
        may_go_on.set()
        one.join()
        second.join()
    assert steps == ["first"] * 7 + ["second"] * 7


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_hundreds_of_pictures_leave_nothing_behind(bundles, engine):
    with Pipeline.open(bundles("one_level"), engine=engine, threads=1) as pipeline:
        found = load(pipeline, PICTURES, TINY)
    assert found.pictures == PICTURES and found.before == found.after
    assert found.mb_per_thousand < GROWTH


@pytest.mark.slow
def test_many_seeds_give_pictures(bundles):
    with Pipeline.open(bundles("demo")) as pipeline:
        found = seeds(pipeline, SEEDS, options=Options(steps=8, decoder_steps=4))
    assert found == Counted(SEEDS) and found.sound


def test_seeds_without_a_picture_are_counted(bundles, tmp_path):
    def counted(change, value):
        folder = change(bundles("one_level"), "stage_a", value, tmp_path / f"{value}")
        with Pipeline.open(folder) as pipeline:
            return seeds(pipeline, 2, first=5, options=TINY)

    assert counted(giving, 0.0) == Counted(2, black=(5, 6))
    assert counted(giving, 0.5) == Counted(2, constant=(5, 6))
    assert counted(with_weight, float("nan")) == Counted(2, not_finite=(5, 6))
