"""optimum finds the exporter as a command, and opens exported text encoders in its own class."""

import dataclasses
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from transformers import CLIPTextModel

from exporter import cli
from exporter import export as export_module
from exporter.checkpoint.configs import TextConfig
from exporter.checkpoint.find import DEMO
from exporter.options import ExportOptions
from runtimes.bundle.read import open_bundle
from runtimes.errors import RunError
from runtimes.tokenizer import PromptTokenizer
from runtimes.tolerances import LIMITS
from validation.parity.metrics import difference

pytest.importorskip("optimum.onnxruntime")
from optimum.commands.optimum_cli import main as optimum_main
from optimum.onnxruntime import ORTModelForFeatureExtraction

ROOT = Path(__file__).parents[1]
PROMPTS = ["a red circle", "", "a large blue star and a small green ring " * 10]
TEXT_ONLY = ("text_encoder", "decoder_text_encoder")


def run_optimum(monkeypatch, capsys, *words) -> tuple[int, str, str]:
    """`optimum-cli export wuerstchen` with `words`: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["optimum-cli", "export", "wuerstchen", *map(str, words)])
    code = 0
    try:
        optimum_main()
    except SystemExit as error:
        code = int(error.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


def test_help_has_the_exporters_options(monkeypatch, capsys):
    code, out, _ = run_optimum(monkeypatch, capsys, "--help")
    ours = cli.parser().format_help()
    assert code == 0
    assert out.startswith("usage: optimum-cli export wuerstchen")
    start = "positional arguments:"
    assert out[out.index(start) :] == ours[ours.index(start) :]


def test_it_is_listed_and_starts_without_torch(tmp_path):
    """optimum-cli imports every registered command at each start."""
    script = (
        "import sys; sys.argv[1:] = ['export', '--help']\n"
        "from optimum.commands.optimum_cli import main\n"
        "try: main()\n"
        "except SystemExit: print('heavy:', {'torch', 'onnx', 'transformers'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert re.search(r"^ +wuerstchen +Export", found.stdout, re.MULTILINE)
    assert found.stdout.endswith("heavy: set()\n")


@pytest.mark.slow
def test_it_writes_the_exporters_bundle(monkeypatch, capsys, tmp_path, folders):
    decoder, prior = folders("one_level")
    words = ["--model", decoder, "--prior", prior, "--modules", "stage_a", "--quiet"]
    code, out, err = run_optimum(monkeypatch, capsys, *words, "--static", tmp_path / "theirs")
    assert (code, out, err) == (0, "", "")
    ours = [str(word) for word in (tmp_path / "ours", *words, "--static")]
    assert cli.main(ours) == 0
    found = open_bundle(tmp_path / "theirs", hashes="fresh")
    assert found.manifest == open_bundle(tmp_path / "ours").manifest


@pytest.mark.parametrize(
    "words", [["--modules", "stage_d"], ["--batch-size", "2"], ["--height", "0"], ["-m", "no/way"]]
)
def test_errors_are_the_exporters(monkeypatch, capsys, tmp_path, words):
    words = [tmp_path / "bundle", *words]
    code, _, err = run_optimum(monkeypatch, capsys, *words)
    assert cli.main([str(word) for word in words]) == code == 2
    assert err == capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1


def test_a_failed_run_is_exit_code_1(monkeypatch, capsys, tmp_path):
    def fail(*args, **kwargs):
        raise RunError("the disk is full")

    monkeypatch.setattr(export_module, "_write_graph", fail)
    code, _, err = run_optimum(monkeypatch, capsys, tmp_path / "bundle", "--quiet")
    assert (code, err) == (1, "error: the disk is full\n")
    assert not (tmp_path / "bundle").exists()


def test_every_package_is_named_for_installation():
    """Packages are listed, because the command lives in optimum's namespace, not in a folder."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        given = tomllib.load(file)["tool"]["setuptools"]
    roots = [ROOT / name for name in ("exporter", "runtimes", "quantization", "validation")]
    inits = [path for root in roots for path in root.rglob("__init__.py")]
    found = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in inits}
    assert set(given["packages"]) == found | {"optimum.commands.register"}
    register = ROOT / given["package-dir"]["optimum.commands.register"]
    assert [path.name for path in register.glob("*.py")] == ["register_wuerstchen.py"]


def tokens(bundle, graph) -> dict[str, torch.Tensor]:
    spec = bundle.manifest.tokenizers[graph]
    found = PromptTokenizer(bundle.path(spec.folder), spec)(PROMPTS)
    feeds = {"input_ids": found.input_ids, "attention_mask": found.attention_mask}
    return {name: torch.from_numpy(value) for name, value in feeds.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "graph", "precision"),
    [
        ("public", "text_encoder", "fp32"),
        ("odd_c_r", "decoder_text_encoder", "fp32"),
        ("demo", "text_encoder", "fp32"),
        ("demo", "text_encoder", "fp16"),
    ],
)
def test_text_encoders_open_in_optimums_class(bundles, folders, name, graph, precision):
    """gelu and quick_gelu, two widths; the same output for torch and NumPy inputs."""
    options = ExportOptions(modules=TEXT_ONLY, precision=precision)
    bundle = bundles(name, options)
    decoder, prior = (DEMO, DEMO / "wuerstchen-prior") if name == "demo" else folders(name)
    source = (decoder if graph == "decoder_text_encoder" else prior) / "text_encoder"
    expected = CLIPTextModel.from_pretrained(source, torch_dtype=torch.float32)
    feeds = tokens(bundle, graph)
    found = ORTModelForFeatureExtraction.from_pretrained(bundle.path(graph))
    output = found(**feeds)
    reference = expected(**feeds).last_hidden_state.numpy()
    error = difference(output.last_hidden_state.numpy(), reference).relative
    assert error <= LIMITS[precision].graph_error
    arrays = found(**{key: value.numpy() for key, value in feeds.items()})
    np.testing.assert_array_equal(arrays.last_hidden_state, output.last_hidden_state.numpy())
    for field in dataclasses.fields(TextConfig):
        assert getattr(found.config, field.name) == getattr(expected.config, field.name)
    assert found.config.eos_token_id == bundle.manifest.tokenizers[graph].eos_id


@pytest.mark.slow
def test_what_the_signature_does_not_allow(bundles):
    """A mask is asked for, 77 tokens are fixed, no pooled output; --static fixes the batch."""
    bundle = bundles("public", ExportOptions(modules=TEXT_ONLY))
    feeds = tokens(bundle, "text_encoder")
    found = ORTModelForFeatureExtraction.from_pretrained(bundle.path("text_encoder"))
    assert list(found(**feeds)) == ["last_hidden_state"]
    with pytest.raises(ValueError, match="attention_mask is required"):
        found(input_ids=feeds["input_ids"])
    with pytest.raises(InvalidArgument, match="Expected: 77"):
        found(**{key: value[:, :20] for key, value in feeds.items()})
    static = bundles("public", ExportOptions(modules=TEXT_ONLY, static=True))
    found = ORTModelForFeatureExtraction.from_pretrained(static.path("text_encoder"))
    found(**{key: value[:2] for key, value in feeds.items()})  # the prompt and ""
    with pytest.raises(InvalidArgument, match="Expected: 2"):
        found(**feeds)
