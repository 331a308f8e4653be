"""The golden run: few steps by default, said in the manifest, and enough to check every graph."""

import numpy as np
import pytest

from exporter.cli import main
from exporter.golden_pictures import linear_preview
from exporter.options import ExportOptions
from runtimes.bundle.manifest import Golden
from runtimes.errors import UsageError
from runtimes.recording import read_golden
from validation.cli import main as validate


def recorded(bundle) -> tuple[int, int]:
    recording = read_golden(bundle)
    return recording.steps("stage_c"), recording.steps("stage_b")


def test_few_steps_are_recorded_and_the_manifest_says_so(bundles):
    bundle = bundles("one_level")
    assert bundle.manifest.golden == Golden(4, 3, False, 0, 4.0, 0.0)
    assert recorded(bundle) == (4, 3)


def test_the_demos_are_its_whole_schedules(bundles):
    bundle = bundles("demo")
    assert bundle.manifest.golden == Golden(29, 12, True, 0, 4.0, 0.0)
    assert recorded(bundle) == (29, 12)


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "steps"), [((2, 1), (2, 1)), ("full", (29, 12))])
def test_other_steps(bundles, asked, steps):
    bundle = bundles("one_level", ExportOptions(golden_steps=asked))
    assert recorded(bundle) == steps
    golden = bundle.manifest.golden
    assert golden is not None and (golden.steps, golden.decoder_steps) == steps
    assert golden.default_schedule == (asked == "full")
    assert validate([str(bundle.folder), "--golden", "--quiet"]) == 0


@pytest.mark.parametrize("text", ["4", "4,0", "4,3,2", "x,y", "-1,3"])
def test_bad_steps(capsys, tmp_path, text):
    assert main([str(tmp_path / "o"), f"--golden-steps={text}"]) == UsageError.exit_code
    assert "neither two numbers such as 4,3 nor 'full'" in capsys.readouterr().err


def test_steps_of_no_run(capsys, tmp_path):
    assert (
        main([str(tmp_path / "o"), "--no-golden", "--golden-steps", "4,3"]) == UsageError.exit_code
    )
    assert "exclude each other" in capsys.readouterr().err


def test_the_linear_preview_is_that_of_all_pictures():
    """Cells whose colours are linear in their latents: more pictures give the map more exactly."""
    rng = np.random.default_rng(0)
    rows = rng.uniform(-0.05, 0.05, (3, 7))
    rows[:, -1] = 0.5
    latents = rng.standard_normal((6, 6, 4, 5)).astype(np.float32)
    colours = np.einsum("kc,bchw->bkhw", rows[:, :-1], latents) + rows[:, -1][:, None, None]
    image = colours.repeat(8, axis=2).repeat(8, axis=3).astype(np.float32)

    def error(count: int) -> float:
        found = np.array(linear_preview(latents[:count], image[:count]))
        return float(np.abs(found - rows).max())

    assert error(6) < error(1) and error(6) < 1e-3


def test_further_pictures_are_fitted_to(bundles):
    one, three = (bundles("one_level", ExportOptions(preview_pictures=n)) for n in (1, 3))
    sides = [bundle.manifest.picture_side for bundle in (one, three)]
    assert [side.preview_pictures for side in sides] == [1, 3]
    assert sides[0].linear_preview != sides[1].linear_preview
    golden = [bundle.manifest.files["golden/run.safetensors"].sha256 for bundle in (one, three)]
    assert golden[0] == golden[1]


@pytest.mark.parametrize("words", [["0"], ["101"], ["2", "--no-golden"]])
def test_numbers_of_pictures_that_are_refused(tmp_path, capsys, words):
    assert main([str(tmp_path / "b"), "--preview-pictures", *words]) == 2
    assert "--preview-pictures" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
