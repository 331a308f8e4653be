"""python -m validation with several bundles or --report: what it takes, and what it refuses."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import manifests
import pytest

from runtimes.bundle.manifest import Model
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.engines.base import Execution
from runtimes.errors import RunError, UsageError
from runtimes.recording import read_golden
from runtimes.tolerances import LIMITS
from validation.cli import main
from validation.parity.checkpoints import reference_pair
from validation.report import data
from validation.report.cost import measure_costs

ROOT = Path(__file__).parents[1]


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_prompts_that_look_like_options_are_timed_too(bundles):
    bundle = bundles("one_level")
    golden = read_golden(bundle)
    recording = dataclasses.replace(golden, prompt="--seed=x", negative_prompt="-- <b>")
    (cost,) = measure_costs([bundle], recording, Execution(), 1)
    assert cost.seconds.median > 0
    with pytest.raises(RunError, match=r"the timed run failed: error: --device tpu"):
        measure_costs([bundle], recording, Execution(device="tpu"), 1)


def test_a_comparison_needs_no_pytorch(bundles, tmp_path):
    bundle = bundles("one_level").folder
    code = (
        "import sys; sys.modules.update(torch=None, diffusers=None, transformers=None, onnx=None)\n"
        "from validation.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = [str(bundle), "--report", str(tmp_path / "report"), "--repeats", "1", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "report/report.html").is_file()


def test_the_json_option_prints_what_is_written(bundles, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    words = ["--golden", "--repeats", "1", "--report", tmp_path / "empty", "--json"]
    code, out, err = run(capsys, bundles("one_level").folder, *words)
    assert (code, err) == (0, "")
    assert out == (tmp_path / "empty/report.json").read_text(encoding="utf-8")
    name = bundles("one_level").folder.name
    assert json.loads(out)["verdict"]["text"].count(f"ship {name}: it passes every limit") == 1


def edited(bundle: Bundle, output: Path, **changes) -> Path:
    """A copy whose manifest says something else."""
    folder = Path(shutil.copytree(bundle.folder, output))
    value = manifests.read(folder)
    for key, change in changes.items():
        value[key] |= change
    manifests.write(folder, value)
    return folder


def test_bundles_that_cannot_be_compared(capsys, bundles, tmp_path):
    bundle = bundles("one_level")
    code, _, err = run(capsys, bundle.folder, bundle.folder, "--golden")
    assert code == 2 and f"{bundle.folder} is given twice" in err
    for name, changes, message in (
        ("other", {"model": {"id": "other"}}, "are of different models (wuerstchen@local with"),
        ("older", {"model": {"revision": "a0"}}, "wuerstchen@a0 with wuerstchen-prior@local); "),
        ("free", {"text_graphs": {"stage_b": None}}, "free runs Stage B without text"),
    ):
        folder = edited(bundle, tmp_path / name, **changes)
        code, _, err = run(capsys, bundle.folder, folder, "--golden")
        assert code == 2 and f"{bundle.folder} and {folder} " in err and message in err


def test_where_a_report_may_go(capsys, bundles, tmp_path):
    bundle = bundles("one_level").folder
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place, message in (
        (tmp_path / "taken", "exists; give a folder that is new or empty"),
        (tmp_path / "file", "exists; give a folder that is new or empty"),
        (bundle / "report", "is inside the bundle"),
    ):
        code, _, err = run(capsys, bundle, "--golden", "--report", place)
        assert code == 2 and message in err
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["notes.txt"]
    code, _, err = run(capsys, bundle, "--golden", "--report", tmp_path / "file/report")
    assert code == 2 and "cannot be written" in err
    open_bundle(bundle)


def test_repeats_are_for_comparisons_and_at_least_one(capsys, bundles, tmp_path):
    bundle = bundles("one_level").folder
    code, _, err = run(capsys, bundle, "--golden", "--repeats", "2")
    assert code == 2 and "--repeats is for a comparison" in err
    code, _, err = run(capsys, bundle, "--golden", "--report", tmp_path / "r", "--repeats", "0")
    assert code == 2 and "--repeats is 0" in err
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_pictures_of_each_variant_are_scored(capsys, bundles, tmp_path):
    words = [bundles("demo").folder, "--golden", "--repeats", "1", "--report", tmp_path / "r"]
    assert main([*map(str, words), "--pictures", "2", "--quiet"]) == 0
    variant = json.loads((tmp_path / "r" / "report.json").read_text())["variants"][0]
    found = {metric["name"]: metric for metric in variant["quality"]}
    assert found["SSIM"]["value"] > 0.999
    assert found["latent SQNR, Stage B"]["value"] > LIMITS["fp32"].latent_db
    assert found["judge: pair"]["note"] == "2 prompts" and found["judge: pair"]["value"] >= 0
    assert "Frechet distance, judge" in found
    assert main([*map(str, words[:2]), "--pictures", "2"]) == 2
    assert "--pictures is for a comparison" in capsys.readouterr().err


def test_a_reference_of_another_model_is_refused(capsys, bundles, folders, monkeypatch):
    import validation.parity.reference

    monkeypatch.setattr(validation.parity.reference, "record_reference", None)
    decoder, prior = folders("public")
    words = ["--reference", decoder, "--prior", prior]
    code, _, err = run(capsys, bundles("one_level").folder, *words)
    assert code == 2 and "is not the model of this bundle" in err


def test_a_reference_of_another_revision_is_refused(tmp_path):
    def snapshot(name: str, commit: str) -> str:
        folder = tmp_path / f"models--owner--{name}/snapshots" / commit
        folder.mkdir(parents=True)
        return str(folder)

    decoder, prior = snapshot("wuerstchen", "a1"), snapshot("wuerstchen-prior", "b1")
    older = snapshot("wuerstchen", "a0")
    model = Model("owner/wuerstchen", "a1", "owner/wuerstchen-prior", "b1", "", "")
    assert [source.revision for source in reference_pair(model, decoder, prior)] == ["a1", "b1"]
    with pytest.raises(UsageError, match="--reference owner/wuerstchen is revision a0, the bundle"):
        reference_pair(model, older, prior)
    with pytest.raises(UsageError, match="--prior owner/wuerstchen is revision a1"):
        reference_pair(model, decoder, decoder)


def test_every_field_is_documented():
    text = (ROOT / "docs/report.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", text.partition("## report.json")[2]))

    def fields(kind) -> set[str]:
        found = set()
        for field in dataclasses.fields(kind):
            found.add(field.name)
            for inner in re.findall(r"[A-Z]\w+", str(field.type)):
                if inner in TYPES:
                    found |= fields(TYPES[inner])
        return found

    TYPES = {name: kind for name, kind in vars(data).items() if dataclasses.is_dataclass(kind)}
    assert len(fields(data.Report)) > 50
    assert fields(data.Report) - named == set()
