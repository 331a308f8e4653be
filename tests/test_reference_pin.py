"""The reference is the code it was when every figure here was measured.

diffusers keeps Wuerstchen in a folder of deprecated models, which its own tests pass over. A file
changed there, in a wheel built anew or by a patch on one machine, would move the yardstick and
nothing else would say so.
"""

import hashlib
import importlib.metadata
import tomllib
from pathlib import Path

import diffusers
import pytest

VERSION = "0.39.0"
FOLDER = "pipelines/deprecated/wuerstchen"
# SHA-256 of the files of that version's wheel: the modules and the scheduler that
# validation/parity/reference.py runs, and the pipelines that the tests compare pictures with.
FILES = {
    f"{FOLDER}/__init__.py": "53ffab8b63677bf147322978091c05e542bff2b42383757e1e23dc005b8477e5",
    f"{FOLDER}/modeling_paella_vq_model.py": (
        "42ca95801a929b9591dbc73a35722cb5c1a93c0d0873d1f4cb76bc5dfd76f6c9"
    ),
    f"{FOLDER}/modeling_wuerstchen_common.py": (
        "0b450f3ac774e060f1546cf50e9329790abe82a0ba05c841bc41308afc82f155"
    ),
    f"{FOLDER}/modeling_wuerstchen_diffnext.py": (
        "de90ef48d0e84299ff8ae034bf518c08dd40ab7e0777ee4239abbf264ff6c504"
    ),
    f"{FOLDER}/modeling_wuerstchen_prior.py": (
        "85a8d54ca931e2e9e4f8bc8e4fef194d51f89e92b14bb96c784d7c95aebec034"
    ),
    f"{FOLDER}/pipeline_wuerstchen.py": (
        "854ed6016c026f534eaa28612020d58ee19e34f6572610f14ce7619ad45e2c3a"
    ),
    f"{FOLDER}/pipeline_wuerstchen_combined.py": (
        "427c883a4426d63fcca59bdc4c12f63a5896ebc9156acfd3902d97e09d753f97"
    ),
    f"{FOLDER}/pipeline_wuerstchen_prior.py": (
        "d86b4e988f6af17897c7237e4e17ad61babab50889bfe97b2cf544c7600bc24c"
    ),
    "schedulers/scheduling_ddpm_wuerstchen.py": (
        "c0b4e545325d5f6171d3f9424967011f2fe7178ff6d7959c291875d317ce709b"
    ),
}
ADVICE = (
    "The reference has changed. Compare these files with those of the wheel of diffusers "
    f"{VERSION} on PyPI. If the installed copy was edited: install that version again. If you move "
    "to another version on purpose: read what changed, run `make test-all`, and only then set "
    "VERSION and FILES here and the pin of diffusers in pyproject.toml."
)


def installed_version() -> str:
    return importlib.metadata.version("diffusers")


def test_the_pin_is_the_version_whose_files_are_named_here():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    needs = project["project"]["optional-dependencies"]["validation"]
    assert f"diffusers=={VERSION}" in needs, ADVICE


@pytest.mark.skipif(
    installed_version() != VERSION,
    reason=f"diffusers {installed_version()} is installed, the reference is pinned to {VERSION}: "
    "its files are not known here, and differences from it prove nothing",
)
def test_the_references_files_are_those_of_the_pinned_version():
    root = Path(diffusers.__file__).parent
    paths = {*(root / FOLDER).glob("*.py"), *(root / name for name in FILES)}
    hashes = {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.is_file()
    }
    changed = sorted(name for name in FILES | hashes if FILES.get(name) != hashes.get(name))
    assert changed == [], ADVICE
