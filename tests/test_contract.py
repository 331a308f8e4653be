"""What a manifest says to hosts is what runtimes do and files hold; version 1 still opens."""

import inspect
import json
import shutil
from pathlib import Path

import jsonschema
import manifests
import onnx
import pytest
from hosting_page import BLOCK, BLOCKS, PAGE, filled
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from tiny import TOKENIZER
from transformers import CLIPTokenizer, CLIPTokenizerFast

from exporter.tokens import HARD_PROMPTS
from quantization.quantize import Request, quantize
from quantization.recipes import INT8_WEIGHTS
from runtimes.bundle.host import GUIDANCE, NOISE, PICTURE, SCHEDULE
from runtimes.bundle.manifest import EXACT_GRAPHS, FORMAT_VERSION, TOKENS_FILE
from runtimes.bundle.onnx_header import read_header
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.bundle.schema import SCHEMA_NAME, schema, schema_text
from runtimes.bundle.write import seal
from runtimes.cli import main as runtimes
from runtimes.engines.base import Execution
from runtimes.engines.openvino import OpenVinoEngine
from runtimes.engines.table import graph_file
from runtimes.errors import RunError, UsageError
from runtimes.replay import replay
from runtimes.tolerances import LIMITS

OF_VERSION_2 = ("compute", "data", "opsets", "ir_version", "engines")


def as_version_1(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle as it was written before version 2."""
    shutil.copytree(bundle.folder, folder)
    (folder / TOKENS_FILE).unlink()
    value = manifests.read(folder)
    value["format_version"] = 1
    del value["host"], value["files"][TOKENS_FILE]
    for graph in value["graphs"].values():
        for name in OF_VERSION_2:
            del graph[name]
    for tokenizer in value["tokenizers"].values():
        del tokenizer["rules"]
    manifests.write(folder, value)
    return open_bundle(folder, verify_rest=True)


@pytest.fixture(scope="module")
def old(bundles, tmp_path_factory) -> Bundle:
    return as_version_1(bundles("one_level"), tmp_path_factory.mktemp("old") / "bundle")


def test_version_1_opens_and_sealing_it_makes_version_2(bundles, old):
    assert old.manifest.format_version == 1 and old.manifest.host is None
    sealed = seal(old.folder, old.manifest)
    new = bundles("one_level").manifest
    assert sealed.graphs == new.graphs and sealed.tokenizers == new.tokenizers
    assert sealed.host is not None and new.host is not None
    assert (sealed.host.tokens, new.host.tokens) == ("", TOKENS_FILE)
    assert sealed.host.run == new.host.run and sealed.host.tolerances == new.host.tolerances


def test_quantising_version_1_makes_version_2(bundles, tmp_path):
    old = as_version_1(bundles("one_level"), tmp_path / "old")
    request = Request("int8-weights", {"stage_b": INT8_WEIGHTS}, (), 1, 0)
    manifest = quantize(old, tmp_path / "new", request)
    assert open_bundle(tmp_path / "new").manifest == manifest
    assert manifest.format_version == FORMAT_VERSION and manifest.host is not None
    held = {t.compute: t.graph_error for t in manifest.host.tolerances["stage_b"]}
    assert held["f32"] == held["bf16"] == LIMITS["int8-weights"].graph_error
    assert manifest.host.tolerances["stage_a"][0].graph_error == LIMITS["fp32"].graph_error


def test_graphs_say_what_the_onnx_package_reads_of_their_files(bundles):
    bundle = bundles("public")
    for name, graph in bundle.manifest.graphs.items():
        model = onnx.load(bundle.path(graph.file), load_external_data=False)
        assert graph.ir_version == model.ir_version
        assert graph.opsets == {
            entry.domain or "ai.onnx": entry.version for entry in model.opset_import
        }
        weights = [tensor for tensor in model.graph.initializer if uses_external_data(tensor)]
        assert {d.location for d in graph.data} == {ExternalDataInfo(t).location for t in weights}
        assert all(d.file == f"{name}/{d.location}" for d in graph.data)
        assert (graph.compute == "f32") == (name in EXACT_GRAPHS)


def test_graphs_say_the_oldest_engine_they_were_run_on(bundles, tmp_path):
    bundle = bundles("one_level")
    assert {g.engines["onnxruntime"] for g in bundle.manifest.graphs.values()} == {"1.15.1"}
    request = Request("int8-weights", {"stage_b": INT8_WEIGHTS}, (), 1, 0)
    graphs = quantize(bundle, tmp_path / "new", request).graphs
    assert graphs["stage_b"].engines["onnxruntime"] == "1.23.0"
    assert graphs["stage_c"].engines["onnxruntime"] == "1.15.1"
    assert graphs["stage_b"].opsets == {"ai.onnx": 18, "com.microsoft": 1}
    assert graphs["stage_b"].ir_version == 8


@pytest.mark.parametrize("content", [b"", b"\x08", b"<xml>", b"\x3a\x05a", bytes(100)])
def test_a_file_that_is_no_onnx_graph(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(RunError, match=r"model\.onnx is no ONNX file"):
        read_header(tmp_path / "model.onnx")


def test_ids_of_hard_prompts_are_transformers_own(bundles):
    bundle = bundles("one_level")
    entries = json.loads(bundle.verified(TOKENS_FILE).read_text(encoding="ascii"))
    assert [entry["prompt"] for entry in entries] == list(HARD_PROMPTS)
    theirs = CLIPTokenizerFast.from_pretrained(TOKENIZER)
    wanted = theirs(list(HARD_PROMPTS), padding="max_length", max_length=77, truncation=True)
    for row, entry in enumerate(entries):
        for graph, spec in bundle.manifest.tokenizers.items():
            assert entry["input_ids"][graph] == wanted.input_ids[row], entry["prompt"]
            assert entry["length"][graph] == sum(wanted.attention_mask[row])
            assert len(entry["input_ids"][graph]) == spec.max_length


def test_tokenizer_rules_are_the_checkpoints(bundles):
    slow = CLIPTokenizer.from_pretrained(TOKENIZER)
    for spec in bundles("one_level").manifest.tokenizers.values():
        rules = spec.rules
        assert rules is not None
        assert (rules.bos, rules.eos) == (slow.bos_token, slow.eos_token)
        assert (rules.unknown, rules.unknown_id) == (slow.unk_token, slow.unk_token_id)
        assert {token.content: token.id for token in rules.added} == slow.added_tokens_encoder
        assert rules.words in slow.pat.pattern  # theirs has the special tokens, too
        assert [step.kind for step in rules.normalization] == ["nfc", "replace", "lowercase"]


def test_openvinos_session_is_the_adapters(bundles):
    bundle = bundles("one_level")
    assert bundle.manifest.host is not None
    session = bundle.manifest.host.sessions["openvino"]
    for precision, wanted in ((None, {}), ("f32", session.config_f32)):
        engine = OpenVinoEngine(graph_file(bundle, "stage_c"), Execution(precision=precision))
        config = {key: str(value) for key, value in engine._config().items()}
        assert config == session.config | wanted


def test_rules_are_the_values_that_the_runtimes_read(bundles):
    host = bundles("one_level").manifest.host
    assert host is not None
    assert (host.noise, host.schedule) == (NOISE, SCHEDULE)
    assert (host.guidance, host.picture) == (GUIDANCE, PICTURE)


@pytest.mark.parametrize("name", ["public", "one_level", "demo"])
def test_the_golden_run_is_replayed_without_an_engine(bundles, name, monkeypatch):
    monkeypatch.setattr("runtimes.engines.table.ENGINES", {})
    checks = replay(bundles(name))
    assert {check.what: check.error for check in checks} == dict.fromkeys(
        (check.what for check in checks), 0.0
    )
    assert len(checks) == 8 and checks[-1].what == "wiring"


def test_a_replay_from_another_seed_is_far_off(bundles):
    errors = {check.what: check.error for check in replay(bundles("demo"), seed=1)}
    assert errors["stage_c: latents after every step"] > 100
    assert errors["stage_b: noise"] > 1
    assert errors["tokens"] == errors["wiring"] == 0


def test_a_replay_of_version_1(old):
    checks = replay(old)
    assert all(check.passed for check in checks)
    assert "wiring" not in {check.what for check in checks}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda m: m["sampling"].update(latent_mean=1.0), "wiring"),
        (lambda m: m["sampling"].update(height=256, width=256), None),  # golden has its own size
        (lambda m: m["sampling"]["stage_b"].update(s=0.01), "stage_b: schedule"),
        (lambda m: m["sampling"]["stage_c"]["schedule"][3].update(a=1.0), "stage_c: schedule"),
        (lambda m: m["tokenizers"]["text_encoder"].update(pad_id=0), "tokens"),
        (lambda m: m["host"]["run"][1]["feeds"][0].update(source="decoder_text_encoder"), "wiring"),
        (lambda m: m["host"]["run"][1]["feeds"][0].update(output="x"), "no 'text_encoder.x'"),
    ],
)
def test_what_a_replay_finds(bundles, tmp_path, capsys, change, what):
    folder = Path(shutil.copytree(bundles("one_level").folder, tmp_path / "bundle"))
    value = manifests.read(folder)
    change(value)
    manifests.write(folder, value)
    assert runtimes([str(folder), "--replay"]) == (0 if what is None else RunError.exit_code)
    said = capsys.readouterr()
    assert what is None or what in said.err
    if what != "no 'text_encoder.x'":
        assert "stage_c: noise: error 0 (at most 2e-06)" in said.out


def test_a_replay_takes_no_prompt(bundles, capsys):
    words = [str(bundles("one_level").folder), "a circle", "--replay"]
    assert runtimes(words) == UsageError.exit_code
    assert "leave the prompt out" in capsys.readouterr().err


def test_the_hosting_page_says_what_the_manifest_says(bundles):
    page = PAGE.read_text(encoding="utf-8")
    assert len(BLOCK.findall(page)) == len(BLOCKS)
    assert filled(page, bundles("demo").manifest) == page


def test_the_schema_is_that_of_the_dataclasses():
    shipped = Path(inspect.getfile(schema_text)).with_name(SCHEMA_NAME)
    assert shipped.read_text(encoding="utf-8") == schema_text()
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("name", ["one_level", "public", "demo"])
def test_real_manifests_validate(bundles, name):
    text = (bundles(name).folder / "bundle.json").read_text(encoding="utf-8")
    jsonschema.Draft202012Validator(schema()).validate(json.loads(text))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(format_version=1),
        lambda m: m.update(host=None),
        lambda m: m.pop("golden"),
        lambda m: m.update(extra=1),
        lambda m: m["graphs"]["stage_a"].update(compute=""),
        lambda m: m["host"]["run"][0].update(when="sometimes"),
        lambda m: m["host"]["sizes"][0].update(picture=[1, 2, 3]),
        lambda m: m["host"]["sizes"][0].update(picture=[1]),
    ],
)
def test_what_is_no_manifest_of_this_version_does_not_validate(bundles, change):
    value = manifests.read(bundles("one_level").folder)
    change(value)
    assert not jsonschema.Draft202012Validator(schema()).is_valid(value)
