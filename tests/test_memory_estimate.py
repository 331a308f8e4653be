"""Whether a run fits into memory is known before it starts."""

import dataclasses
import gc
import weakref

import onnxruntime
import pytest

from exporter.cost import activations, graph_parameters, peak_bytes
from exporter.dimensions import make_static
from exporter.graphs import plan_graphs
from exporter.torch_engine import TorchGraphs
from runtimes import Options, Pipeline, memory
from runtimes.cli import main
from runtimes.engines.base import Execution, Footprint
from runtimes.engines.table import ENGINES, BundleGraphs
from runtimes.errors import UsageError
from runtimes.estimate import Need, check_memory
from runtimes.plan import make_plan
from runtimes.sizes import sizes
from validation.bench.public import STAGE_B, STAGE_C, public_checkpoint

MEGABYTE = 1_000_000


def need_of(manifest, count=1, footprint=None, **options):
    plan = make_plan(manifest.sampling, Options(**options), count, None)
    return Need(manifest, footprint or Footprint(), plan, count)


@pytest.mark.parametrize("name", ["stage_c", "stage_b", "stage_a"])
def test_activations_at_other_sizes_follow_from_three(name):
    """Of the public architecture: 1.5 times the sides, not square, batch 2; within 3 %."""
    checkpoint = public_checkpoint(STAGE_B, STAGE_C)
    plan = next(p for p in plan_graphs(checkpoint, "nchw", text=True) if p.name == name)
    from exporter.sampling import sampling

    made = sizes(1024, 1024, sampling(checkpoint, 1024, 1024))
    constant, linear, quadratic = activations(plan, made)
    height, width = (36, 30) if name == "stage_c" else (384, 320)
    named = {"batch": 2, "height": height, "width": width}
    counted = peak_bytes(make_static(plan, named)) - 4 * graph_parameters(plan)
    positions = height * width
    found = 2 * (constant + linear * positions + quadratic * positions**2)
    assert found == pytest.approx(counted, rel=0.03)
    assert (quadratic > 0) == (name != "stage_a")


def test_more_pictures_and_larger_ones_need_more(bundles):
    manifest = bundles("demo").manifest
    one, four = (need_of(manifest, count).memory(low_memory=False) for count in (1, 4))
    large = need_of(manifest, height=256, width=256).memory(low_memory=False)
    low = need_of(manifest).memory(low_memory=True)
    weights = sum(file.size for name, file in manifest.files.items() if "/model.onnx" in name)
    assert low < one < four and one < large
    assert 0.9 * weights < one < 3 * weights


def test_a_run_that_does_not_fit_is_refused_with_what_would(bundles, capsys, tmp_path, monkeypatch):
    def free(megabytes):
        monkeypatch.setattr("runtimes.estimate.available_memory", lambda: megabytes * MEGABYTE)

    folder, picture = str(bundles("demo").folder), tmp_path / "a.png"
    words = [folder, "a star", "-o", str(picture), "--steps", "1", "--decoder-steps", "1"]
    free(30)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "1 x 128 x 128 pixels need about " in error and "30.0 MB are free" in error
    assert "with --low-memory it needs " in error
    assert error.count("\n") == 1 and not picture.exists()
    assert main([*words, "--low-memory"]) == 0
    free(1)
    assert main([*words, "--low-memory"]) == 2
    assert "take a bundle of smaller weights" in capsys.readouterr().err
    free(20)
    assert main([*words, "--low-memory", *["another"] * 9, "--batch-size", "10"]) == 2
    assert "ask for fewer prompts at a time (--batch-size)" in capsys.readouterr().err
    assert main([*words, "--no-memory-check"]) == 0


def test_bundles_and_systems_that_do_not_say_are_not_refused(bundles, monkeypatch):
    manifest = bundles("demo").manifest
    monkeypatch.setattr("runtimes.estimate.available_memory", lambda: None)
    check_memory(need_of(manifest), low_memory=False)
    graphs = {n: dataclasses.replace(g, activations=()) for n, g in manifest.graphs.items()}
    older = dataclasses.replace(manifest, graphs=graphs)
    less, all_of_it = (need_of(m).memory(low_memory=False) for m in (older, manifest))
    assert less < all_of_it
    monkeypatch.setattr("runtimes.estimate.available_memory", lambda: 1)
    with Pipeline.open(bundles("demo")) as pipeline, pytest.raises(UsageError, match="need about"):
        pipeline("a star")


def test_attention_scores_are_weighed_apart(bundles):
    manifest = bundles("demo").manifest
    one, two = (need_of(manifest, footprint=Footprint(pairs=pairs)) for pairs in (1, 2))
    graph, (height, width) = manifest.graphs["stage_b"], one.plan.sizes.stage_b
    more = two._activations("stage_b") - one._activations("stage_b")
    assert more == pytest.approx(graph.activations[2] * (height * width) ** 2) and more > 0


def test_a_run_is_judged_by_the_engine_that_was_chosen(bundles, monkeypatch):
    def huge(execution):
        return Footprint({"fp32": 1e9})

    monkeypatch.setattr("runtimes.engines.openvino.footprint", huge)
    options = Options(steps=1, decoder_steps=1)
    pipeline = Pipeline.open(bundles("demo"), engine="openvino")
    with pipeline, pytest.raises(UsageError, match="need about"):
        pipeline("a star", options=options)
    with Pipeline.open(bundles("demo"), engine="onnxruntime") as pipeline:
        assert len(pipeline("a star", options=options).pictures) == 1


def test_no_run_is_laid_out_ahead_on_the_cpu(bundles, monkeypatch):
    seen, session = [], onnxruntime.InferenceSession

    def spied(path, options, **given):
        seen.append(options.enable_mem_pattern)
        return session(path, options, **given)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spied)
    BundleGraphs(bundles("demo"), Execution(engine="onnxruntime")).open("stage_a").close()
    assert seen == [False]


def test_estimates_know_the_engine_and_the_precisions(bundles):
    """The one that is stored, and, in OpenVINO, the one that it computes in."""
    fp32 = bundles("demo").manifest

    def stored(precision):
        graphs = {n: dataclasses.replace(g, precision=precision) for n, g in fp32.graphs.items()}
        return dataclasses.replace(fp32, graphs=graphs)

    widened = {"onnxruntime": stored("fp16"), "openvino": stored("int4-weights")}
    found = {
        (name, asked, manifest is not fp32): need_of(
            manifest, footprint=ENGINES[name].footprint(Execution(precision=asked))
        ).memory(low_memory=False)
        for name, asked in (("onnxruntime", None), ("openvino", "f32"), ("openvino", "bf16"))
        for manifest in (fp32, widened[name])
    }
    ort, f32 = found["onnxruntime", None, False], found["openvino", "f32", False]
    assert found["openvino", "bf16", False] < f32 < ort
    assert all(found[*key[:2], True] > found[key] for key in found if not key[-1])


def test_pictures_are_decoded_one_by_one(bundles):
    """stage_a's activations do not grow with the batch; those of the denoisers do."""
    bundle, feeds = bundles("demo"), []
    with Pipeline.open(bundle) as pipeline:
        source = pipeline._sessions._source

        class Source:
            def open(self, name):
                engine, run = source.open(name), None
                if name == "stage_a":
                    run = engine.run
                    engine.run = lambda fed: (feeds.append(fed["latents"].shape), run(fed))[1]
                return engine

        pipeline._sessions._source = Source()
        found = pipeline(["a star", "a ring"], options=Options(steps=1, decoder_steps=1))
    assert [shape[0] for shape in feeds] == [1, 1] and len(found.pictures) == 2
    one, four = (need_of(bundle.manifest, count) for count in (1, 4))
    assert one._activations("stage_a") == four._activations("stage_a")
    assert 4 * one._activations("stage_b") == four._activations("stage_b")


@pytest.fixture
def no_collections():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Node:
    pass


@pytest.mark.parametrize(("garbage", "collected"), [(0, False), (9e7, False), (1e8, True)])
def test_garbage_is_collected_where_it_pays(no_collections, garbage, collected):
    node = Node()
    node.own, found = node, weakref.ref(node)
    del node
    memory.give_back(garbage)
    assert (found() is None) == collected


def test_a_closed_pytorch_graph_leaves_its_module_to_nothing(no_collections, checkpoint):
    plans = plan_graphs(checkpoint("one_level"), "nchw", text=True)
    for plan in plans:
        engine = TorchGraphs(plans).open(plan.name)
        module = weakref.ref(engine._module)
        engine.close()
        assert module() is None, plan.name


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_closed_graph_leaves_nothing_to_collect(no_collections, bundles, engine):
    """Graphs of any size are released at once: no cycle of references holds an engine."""
    with Pipeline.open(bundles("demo"), engine=engine, low_memory=True) as pipeline:
        opened, source = [], pipeline._sessions._source

        class Source:
            def open(self, name):
                engine = source.open(name)
                opened.append(weakref.ref(engine))
                return engine

        pipeline._sessions._source = Source()
        pipeline("a star", options=Options(steps=1, decoder_steps=1))
        assert len(opened) >= 6 and all(found() is None for found in opened)
