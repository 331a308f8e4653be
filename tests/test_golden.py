"""The golden run: few steps by default, said in the manifest, and enough to check every graph."""

import pytest

from exporter.cli import main
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
