"""The runtime's command line and pipeline: pictures, metadata, and one clear line for bad input."""

import json
import subprocess
import sys

import manifests
import numpy as np
import onnx
import pytest
from PIL import Image

from runtimes import Options, Pipeline, RunError, UsageError
from runtimes.cli import main
from runtimes.images import read_parameters
from runtimes.plan import make_plan
from runtimes.sampler import sample
from runtimes.sizes import sizes

SHORT = ["--steps", "2", "--decoder-steps", "2"]


@pytest.fixture(scope="module")
def bundle(bundles):
    return bundles("public")


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_a_picture_with_its_parameters(capsys, bundle, tmp_path):
    path = tmp_path / "p.png"
    words = [*SHORT, "--guidance", "3", "--seed", "7", "--negative-prompt", "blue"]
    code, out, _ = run(capsys, bundle.folder, "-o", path, *words, "a réd ring")
    assert code == 0
    assert f"wrote {path}" in out and "stage_c" in out
    assert Image.open(path).size == (128, 128)
    found = read_parameters(path)
    assert (found["prompt"], found["seed"], found["guidance"]) == ("a réd ring", [7], 3.0)
    assert (found["negative_prompt"], found["precision"]) == ("blue", "fp32")
    assert (found["timesteps"], found["decoder_guidance"]) == ([1.0, 0.5, 0.0], 0.0)
    assert (found["height"], found["width"]) == (128, 128)


def test_several_prompts_and_a_prompts_file(capsys, bundle, tmp_path):
    (tmp_path / "prompts.txt").write_text("a blue star\n\na green cross\n")
    words = [
        "a ring",
        "--prompts-file",
        tmp_path / "prompts.txt",
        "-o",
        tmp_path / "p.png",
        "--json",
    ]
    code, out, err = run(capsys, bundle.folder, *words, *SHORT)
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert [path.rsplit("/", 1)[1] for path in summary["pictures"]] == [
        "p-000.png",
        "p-001.png",
        "p-002.png",
    ]
    assert read_parameters(tmp_path / "p-002.png")["prompt"] == "a green cross"
    assert summary["stages"]["stage_b"]["peak_bytes"] > 0


def test_low_memory_makes_the_same_picture_one_graph_at_a_time(bundle):
    options = Options(steps=2, decoder_steps=2)
    with Pipeline.open(bundle) as pipeline:
        expected = pipeline("a ring", options=options)
        assert len(pipeline._sessions._open) == len(bundle.manifest.graphs)
    with Pipeline.open(bundle, low_memory=True) as pipeline:
        found = pipeline("a ring", options=options)
        assert pipeline._sessions._open == {}
    assert np.array_equal(found.pictures, expected.pictures)


def test_a_truncated_prompt_is_said(capsys, bundle, tmp_path):
    words = ["red " * 100, "-o", tmp_path / "p.png", *SHORT]
    code, _, err = run(capsys, bundle.folder, *words)
    assert code == 0
    assert "too long, cut off before 'red red" in err


def test_odd_sizes_say_what_is_made(capsys, bundle, tmp_path):
    code, out, _ = run(
        capsys, bundle.folder, "", "-o", tmp_path / "p.png", "--height", "100", *SHORT
    )
    assert code == 0 and "make a picture of 128 x 128 pixels" in out


def test_nearest_sizes_are_valid(bundle):
    for pixels in range(1, 1600, 7):
        try:
            sizes(pixels, 128, bundle.manifest.sampling)
        except UsageError as error:
            words = str(error).partition("; the nearest valid ")[2]
            named = [int(word) for word in words.split() if word.isdecimal()]
            assert words.startswith("height is " if len(named) == 1 else "heights are ")
            for near in named:
                assert sizes(near, 128, bundle.manifest.sampling)
            assert any(near > pixels for near in named)


def test_text_in_custom_timesteps(bundle):
    custom = Options(timesteps=(1.0, 0.5, 0.0), decoder_timesteps=(1.0, 0.5, 0.0))
    even = Options(steps=2, decoder_steps=2)
    with Pipeline.open(bundle) as pipeline:
        a, b = pipeline("a", options=custom), pipeline("a", options=even)
    assert np.array_equal(a.pictures, b.pictures)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is no prompt"),
        (["a", "--guidance", "-1"], "--guidance is -1.0; it must be 0 or more"),
        (["a", "--decoder-guidance", "-0.5"], "--decoder-guidance is -0.5"),
        (["a", "--guidance", "nan"], "--guidance is nan"),
        (["a", "--steps", "0"], "--steps is 0"),
        (["a", "--decoder-steps", "-3"], "--decoder-steps is -3"),
        (["a", "--steps", "3", "--timesteps", "1,0"], "exclude each other"),
        (["a", "--timesteps", "0,1"], "strictly descending"),
        (["a", "b", "c", "--seed", "1,2"], "2 seeds for 3 prompts"),
        (["a", "--height", "1100"], "the nearest valid heights are 1024 and 1152"),
        (["a", "--width", "0"], "--width is 0"),
        (["a", "--device", "tpu"], "--device tpu"),
        (["a", "--device", "cuda"], "CUDAExecutionProvider"),
        (["a", "-o", "p.jpg"], "pictures are PNG files"),
        (["a", "-o", "nowhere/p.png"], "does not exist"),
        (["a", "--prompts-file", "nowhere.txt"], "cannot be read"),
    ],
)
def test_bad_options(capsys, bundle, tmp_path, monkeypatch, words, message):
    import onnxruntime

    monkeypatch.chdir(tmp_path)
    # As on a machine without a GPU, wherever this runs.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    code, _, err = run(capsys, bundle.folder, *words)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_provider_that_does_not_start_is_an_error(capsys, bundle, tmp_path, monkeypatch):
    """ONNX Runtime lists CUDA where its libraries are missing, and falls back by itself."""
    import onnxruntime

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    words = [bundle.folder, "a", "-o", tmp_path / "p.png", "--device", "cuda"]
    code, _, err = run(capsys, *words)
    assert code == 2 and "could not start CUDAExecutionProvider" in err


@pytest.mark.slow
def test_static_bundles_say_what_they_were_made_for(capsys, bundles, tmp_path, monkeypatch):
    from exporter.options import ExportOptions

    monkeypatch.chdir(tmp_path)
    static = bundles("public", ExportOptions(static=True, height=128, width=256))
    for words, message in (
        (
            ["a", "b", "--batch-size", "2"],
            "this bundle was exported for a batch of 1",
        ),
        (["a", "--guidance", "1"], "stage_c was exported for a batch of 2, this run needs 1"),
        (["a", "--height", "256"], "pictures of 128 x 256 pixels (height x width) only"),
    ):
        code, _, err = run(capsys, static.folder, *words)
        assert code == 2 and message in err
    assert list(tmp_path.iterdir()) == []


def test_no_bundle(capsys, tmp_path):
    code, _, err = run(capsys, tmp_path, "a", "-o", tmp_path / "p.png")
    assert code == 1 and "is no bundle" in err


def test_nan_names_graph_and_step(bundle):
    stage = make_plan(bundle.manifest.sampling, Options(guidance=1), 1, None).stage_c

    def denoise(latents, embedding):
        return np.full_like(latents, np.nan) if embedding[0, 0] < 0 else latents

    from runtimes.noise import TorchNoise

    latents = np.zeros((1, 16, 3, 3), np.float32)
    steps = sample(denoise, stage, latents, TorchNoise(0))
    with pytest.raises(RunError, match=r"stage_c, step \d+ of 29 \(t = .*NaN"):
        list(steps)


def test_nan_in_a_graph_stops_the_run(capsys, bundle, tmp_path):
    """A weight that is NaN in the file: the graph is named, no picture is written."""
    import shutil

    from runtimes.bundle.read import sha256

    folder = tmp_path / "bundle"
    shutil.copytree(bundle.folder, folder)
    path = folder / "stage_b/model.onnx"
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda t: np.prod(t.dims))
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, path)
    manifest = manifests.read(folder)
    manifest["files"]["stage_b/model.onnx"] = {
        "size": path.stat().st_size, "sha256": sha256(path),
    }  # fmt: skip
    manifests.write(folder, manifest)
    code, _, err = run(capsys, folder, "a", "-o", tmp_path / "p.png", "--quiet", *SHORT)
    assert code == 1
    assert "stage_b, step 1 of 2" in err and "NaN" in err
    assert not (tmp_path / "p.png").exists()


def test_runtime_imports_neither_torch_nor_the_reference(bundle, tmp_path):
    """A whole run in a fresh process, with every heavy package blocked."""
    program = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'diffusers', 'onnx', 'safetensors', 'exporter'):\n"
        "    sys.modules[name] = None\n"
        "from runtimes.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = [str(bundle.folder), "a", "-o", str(tmp_path / "p.png"), "--quiet", *SHORT]
    subprocess.run([sys.executable, "-c", program, *words], check=True)
    assert (tmp_path / "p.png").exists()


def test_golden_check_needs_the_runtime_only(bundle):
    program = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'diffusers', 'onnx', 'safetensors', 'exporter'):\n"
        "    sys.modules[name] = None\n"
        "from validation.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = [str(bundle.folder), "--golden"]
    found = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "compared with: golden run" in found.stdout


def test_verify_alone_checks_every_file(capsys, bundle, tmp_path):
    import shutil

    folder = shutil.copytree(bundle.folder, tmp_path / "bundle")
    code, out, _ = run(capsys, folder, "--verify")
    assert code == 0
    assert f"all {len(bundle.manifest.files)} files are as they were made" in out
    (folder / "README.md").write_text("edited")
    code, _, err = run(capsys, folder, "--verify")
    assert code == 1 and "README.md" in err


def test_a_manifest_stands_for_its_bundle_and_a_parent_names_it(capsys, bundle, tmp_path):
    picture = tmp_path / "p.png"
    code, _, _ = run(capsys, bundle.folder / "bundle.json", "a", "-o", picture, *SHORT)
    assert code == 0 and picture.exists()
    code, _, err = run(capsys, bundle.folder.parent, "a", "-o", picture)
    assert code == 1 and "did you mean" in err
    code, _, err = run(capsys, "", "a", "-o", picture)
    assert code == 2 and "it is empty; give a path" in err
