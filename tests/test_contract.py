"""What a manifest says to hosts is what runtimes do and files hold; version 1 still opens."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from tiny import TOKENIZER
from transformers import CLIPTokenizer, CLIPTokenizerFast

from exporter.tokens import HARD_PROMPTS
from quantization.quantize import Request, quantize
from quantization.recipes import INT8_WEIGHTS
from runtimes.bundle.host import GUIDANCE, NOISE, PICTURE, SCHEDULE
from runtimes.bundle.manifest import CONDITION_GRAPHS, FORMAT_VERSION, TOKENS_FILE
from runtimes.bundle.onnx_header import read_header
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.bundle.write import seal
from runtimes.errors import RunError
from runtimes.tolerances import LIMITS

OF_VERSION_2 = ("compute", "data", "opsets", "ir_version", "engines")


def as_version_1(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle as it was written before version 2."""
    shutil.copytree(bundle.folder, folder)
    (folder / TOKENS_FILE).unlink()
    value = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    value["format_version"] = 1
    del value["host"], value["files"][TOKENS_FILE]
    for graph in value["graphs"].values():
        for name in OF_VERSION_2:
            del graph[name]
    for tokenizer in value["tokenizers"].values():
        del tokenizer["rules"]
    (folder / "bundle.json").write_text(json.dumps(value))
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
        assert (graph.compute == "f32") == (name in CONDITION_GRAPHS)


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


def test_rules_are_the_values_that_the_runtimes_read(bundles):
    host = bundles("one_level").manifest.host
    assert host is not None
    assert (host.noise, host.schedule) == (NOISE, SCHEDULE)
    assert (host.guidance, host.picture) == (GUIDANCE, PICTURE)
