"""The picture side's files as users and strangers give them: found, refused in one line, added."""

import json
from pathlib import Path

import picture_nets as nets
import pytest
import torch
from safetensors.torch import save_file

from exporter.checkpoint.find import _needed, find_pair
from exporter.checkpoint.open import open_checkpoint
from exporter.checkpoint.picture_files import PictureFiles
from exporter.cost import inspect
from exporter.graphs import default_modules
from exporter.job import check_job
from exporter.options import ExportOptions, check_options
from runtimes.bundle.manifest import GRAPHS, PICTURE_GRAPHS
from runtimes.errors import UsageError
from validation.parity.metrics import difference
from validation.parity.picture_reference import compress, preview

BLOCK = "backbone.1.0.block.0.0.weight"  # 3 x 3, 5 to 5
HEADER = {"strides": nets.ODD_STRIDES}


def tensors() -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in nets.compressor(8).state_dict().items()}


def layers() -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in nets.previewer(8).state_dict().items()}


@pytest.fixture
def pair(folders):
    return find_pair(*map(str, folders("one_level")))


def opened(pair, **files: Path):
    pictures = PictureFiles(**files)
    return check_job(open_checkpoint(*pair, None, pictures), ExportOptions(pictures=pictures))


def _without(name):
    return lambda held: held.pop(name)


def _with(name, *shape):
    return lambda held: held.update({name: torch.zeros(shape)})


# What is done to a compressor's tensors, and what is said of it.
COMPRESSORS = {
    "no weight": (_without(BLOCK), f"'{BLOCK}' is missing"),
    "no statistics": (_without("backbone.0.1.running_var"), "running_var' is missing"),
    "no mapper": (_without("mapper.0.weight"), "is no semantic compressor"),
    "one too many": (_with("classifier.1.weight", 3, 8), "unexpected weight 'classifier.1.weight'"),
    "another kind": (dict.clear, "is no semantic compressor"),
    "no kernel": (_with(BLOCK, 5), "has a convolution of a square kernel there"),
    "oblong": (_with(BLOCK, 5, 5, 3, 5), "has a convolution of a square kernel there"),
    "even": (_with(BLOCK, 5, 5, 2, 2), "an even side"),
    "large": (_with(BLOCK, 5, 5, 65, 65), "65 is above 63"),
    "empty": (_with(BLOCK, 0, 5, 3, 3), "0 is below 1"),
    "other channels": (_with("mapper.0.weight", 16, 23, 1, 1), "16 channels and Stage C's latents"),
    "other widths": (_with("backbone.3.0.block.0.0.weight", 27, 5, 3, 3), "the config makes it ("),
    "many stages": (_with("backbone.40.0.weight", 5, 5, 3, 3), "is one too many"),
    "many layers": (_with("backbone.1.0.block.7.0.weight", 5, 5, 3, 3), "is one too many"),
    "mean alone": (_without("std"), "'std' is missing"),
}  # fmt: skip


@pytest.mark.parametrize("fault", COMPRESSORS)
def test_a_compressor_that_does_not_fit_is_refused(pair, tmp_path, fault):
    change, said = COMPRESSORS[fault]
    held = tensors()
    change(held)
    save_file(held, tmp_path / "c.safetensors", HEADER)
    with pytest.raises(UsageError) as raised:
        opened(pair, compressor=tmp_path / "c.safetensors")
    assert said in str(raised.value) and "\n" not in str(raised.value)
    assert str(tmp_path / "c.safetensors") in str(raised.value) or "is missing" in said


@pytest.mark.parametrize(
    ("strides", "said"),
    [
        (None, "does not say their strides"),
        ("2,1,2,2", "not 5 numbers"),
        ("2,1,2,2,3", "not 5 numbers"),
        ("2;1;2;2;2", "not 5 numbers"),
        ("", "not 5 numbers"),
    ],
)
def test_strides_that_are_missing_or_wrong_are_refused(pair, tmp_path, strides, said):
    metadata = None if strides is None else {"strides": strides}
    save_file(tensors(), tmp_path / "c.safetensors", metadata)
    with pytest.raises(UsageError, match=said):
        opened(pair, compressor=tmp_path / "c.safetensors")


PREVIEWERS = {
    "no weight": (_without("blocks.3.weight"), "'blocks.3.weight' is missing"),
    "no norm": (_without("blocks.2.running_mean"), "'blocks.2.running_mean' is missing"),
    "another place": (_with("blocks.25.weight", 3, 5, 1, 1), "is no previewer"),
    "four colours": (_with("blocks.24.weight", 4, 5, 1, 1), "gives 4 channels"),
    "other latents": (_with("blocks.0.weight", 20, 16, 1, 1), "takes 16 channels"),
    "one too many": (_with("other", 3), "unexpected weight 'other'"),
}  # fmt: skip


@pytest.mark.parametrize("fault", PREVIEWERS)
def test_a_previewer_that_does_not_fit_is_refused(pair, tmp_path, fault):
    change, said = PREVIEWERS[fault]
    held = layers()
    change(held)
    save_file(held, tmp_path / "p.safetensors")
    with pytest.raises(UsageError) as raised:
        opened(pair, preview=tmp_path / "p.safetensors")
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_files_of_other_kinds_are_refused(pair, tmp_path):
    pickle = tmp_path / "effnet.pt"
    torch.save({"a": torch.zeros(2)}, pickle)
    renamed = tmp_path / "effnet.safetensors"
    renamed.write_bytes(pickle.read_bytes())
    pointer = tmp_path / "pointer.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    for path, said in (
        (pickle, "is a pickle, which runs code when it is read"),
        (renamed, "it is a pickle by another name"),
        (pointer, "is a git-lfs pointer"),
        (tmp_path, "is a folder; give the file"),
        (tmp_path / "gone.safetensors", "is no file"),
    ):
        for flag in ("compressor", "preview"):
            with pytest.raises(UsageError, match=said):
                opened(pair, **{flag: path})


def test_files_in_the_priors_folder_are_found(pair, tmp_path):
    import shutil

    decoder, prior = (shutil.copytree(source.folder, tmp_path / source.id) for source in pair)
    nets.save(nets.compressor(8), prior / "effnet_encoder.safetensors", HEADER)
    nets.save(nets.previewer(8), prior / "previewer.safetensors")
    found = open_checkpoint(*find_pair(str(decoder), str(prior)), None)
    assert default_modules(found) == (*GRAPHS, *PICTURE_GRAPHS)
    other = nets.save(nets.previewer(8, 8), tmp_path / "other.safetensors")
    given = open_checkpoint(*find_pair(str(decoder), str(prior)), None, PictureFiles(None, other))
    assert given.preview is not None and given.preview.files == (other,)
    costs = {graph.name: graph for graph in inspect(found, 96, 96, text=True).graphs}
    assert all(costs[name].parameters > 0 and costs[name].runs == 0 for name in PICTURE_GRAPHS)
    (prior / "effnet_encoder.safetensors").unlink()
    without = open_checkpoint(*find_pair(str(decoder), str(prior)), None)
    assert default_modules(without) == (*GRAPHS, "preview")


def test_a_hubs_files_are_fetched_with_the_weights():
    names = ["effnet_encoder.safetensors", "previewer.safetensors", "other.safetensors",
             "prior/diffusion_pytorch_model.safetensors"]  # fmt: skip
    assert _needed(names, None) == [*names[:2], names[3]]


def test_graphs_that_the_checkpoint_lacks_are_named(pair):
    for name, flag in (("compressor", "--compressor"), ("preview", "--preview")):
        options = ExportOptions(modules=("stage_a", name))
        with pytest.raises(UsageError, match=f"--modules {name}: .* give {flag}"):
            check_job(open_checkpoint(*pair, None), options)
    asked = check_job(open_checkpoint(*pair, None), ExportOptions(modules=("stage_a_encoder",)))
    assert [plan.name for plan in asked.chosen()] == ["stage_a_encoder"]
    with pytest.raises(UsageError, match="unknown graph 'decoder'"):
        check_options(ExportOptions(modules=("decoder",)))


def test_the_gates_own_reference_equals_the_authors_modules(pair, tmp_path):
    files = nets.files(tmp_path, 8)
    found = open_checkpoint(*pair, None, files)
    image, latents = torch.rand(2, 3, 16, 24), torch.randn(2, 8, 3, 2)
    for expected, made in (
        (nets.compressor(8)(image), compress(found.compressor, image)),
        (nets.previewer(8)(latents), preview(found.preview, latents)),
    ):
        assert difference(made.numpy(), expected.numpy()).relative < 1e-6


@pytest.mark.slow
def test_resume_adds_the_graphs_to_a_bundle(pair, folders, tmp_path, capsys):
    """The rest stays as it is, file by file; the golden run has the new graphs' tensors too."""
    from exporter.cli import main
    from runtimes.bundle.read import open_bundle
    from runtimes.engines.base import Execution
    from runtimes.engines.table import BundleGraphs
    from runtimes.recording import read_golden
    from validation.parity.gate import run_gate

    files = nets.files(tmp_path, 8)
    model, prior = map(str, folders("one_level"))
    output = tmp_path / "bundle"
    words = [str(output), "-m", model, "--prior", prior, "--golden-steps", "2,1", "--quiet"]
    assert main(words) == 0
    before = open_bundle(output)
    assert list(before.manifest.graphs) == list(GRAPHS)
    assert before.manifest.picture_side is not None
    assert before.manifest.picture_side.compressor_stride is None
    assert [len(row) for row in before.manifest.picture_side.linear_preview] == [9, 9, 9]
    more = ["--resume", "--modules", *PICTURE_GRAPHS]
    given = ["--compressor", str(files.compressor), "--preview", str(files.preview)]
    assert main([*words, *more, *given]) == 0
    after = open_bundle(output, hashes="all")
    assert list(after.manifest.graphs) == [*GRAPHS, *PICTURE_GRAPHS]
    for name in GRAPHS:
        assert after.files_of(name) == before.files_of(name)
    assert after.manifest.picture_side is not None
    assert after.manifest.picture_side.compressor_stride == 8
    assert "compressor" in (output / "README.md").read_text(encoding="utf-8")
    gate = run_gate(after, BundleGraphs(after, Execution()), read_golden(after))
    assert gate.failures == []
    assert {check.what for check in gate.graphs} == {*GRAPHS, *PICTURE_GRAPHS}
    assert json.loads((output / "bundle.json").read_text())["picture_side"]["preview_pictures"] == 1
