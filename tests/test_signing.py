"""exporter sign and verify: whose bundle it is, by a key and the model-signing package."""

import shutil
from pathlib import Path

import manifests
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from exporter.cli import main
from runtimes.bundle.read import open_bundle

PRIVATE, PUBLIC = serialization.PrivateFormat.PKCS8, serialization.PublicFormat.SubjectPublicKeyInfo
PEM, OPEN = serialization.Encoding.PEM, serialization.NoEncryption()


def keys(folder: Path, name: str, encryption=OPEN) -> tuple[Path, Path]:
    """A new pair of keys: the private and the public one."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(PEM, PRIVATE, encryption))
    public.write_bytes(key.public_key().public_bytes(PEM, PUBLIC))
    return private, public


@pytest.fixture
def folder(bundles, tmp_path) -> Path:
    return Path(shutil.copytree(bundles("one_level").folder, tmp_path / "bundle"))


def run(capsys, *words) -> tuple[int, str]:
    code = main([str(word) for word in words])
    out = capsys.readouterr()
    assert len(out.err.splitlines()) <= 1
    return code, out.out + out.err


def test_what_was_signed_verifies_and_nothing_else(folder, tmp_path, capsys):
    private, public = keys(tmp_path, "mine")
    (folder / "picture.png").write_bytes(b"no part of the bundle")
    assert run(capsys, "sign", folder, "--key", private)[0] == 0
    assert run(capsys, "verify", folder, "--key", public)[0] == 0
    (folder / "picture.png").write_bytes(b"another one")
    (folder / "notes.txt").write_text("not here when it was signed")
    assert run(capsys, "verify", folder, "--key", public)[0] == 0

    _, stranger = keys(tmp_path, "other")
    code, text = run(capsys, "verify", folder, "--key", stranger)
    assert code == 1 and "is not what the owner of" in text

    manifests.edit(folder, lambda m: m["sampling"]["stage_c"].update(guidance=5.0))
    open_bundle(folder, hashes="fresh", verify_rest=True)  # whose hashes agree with each other
    code, text = run(capsys, "verify", folder, "--key", public)
    assert code == 1 and "is not what the owner of" in text and "bundle.json" in text


def test_a_changed_file_is_named_before_the_signature_is_asked(folder, tmp_path, capsys):
    private, public = keys(tmp_path, "mine")
    signature = tmp_path / "elsewhere.sig"
    run(capsys, "sign", folder, "--key", private, "--signature", signature)
    (folder / "README.md").write_text("something else")
    code, text = run(capsys, "verify", folder, "--key", public, "--signature", signature)
    assert code == 1 and "README.md" in text


def test_an_encrypted_key_and_a_signature_that_is_there(folder, tmp_path, capsys, monkeypatch):
    private, public = keys(tmp_path, "mine", serialization.BestAvailableEncryption(b"secret"))
    code, text = run(capsys, "sign", folder, "--key", private)
    assert code == 1 and "cannot sign" in text and not (folder / "bundle.sig").exists()
    monkeypatch.setenv("WUERSTCHEN_KEY_PASSWORD", "secret")
    assert run(capsys, "sign", folder, "--key", private)[0] == 0
    before = (folder / "bundle.sig").read_bytes()
    assert run(capsys, "sign", folder, "--key", private)[0] == 2
    assert (folder / "bundle.sig").read_bytes() == before
    assert run(capsys, "sign", folder, "--key", private, "--overwrite")[0] == 0
    assert run(capsys, "verify", folder, "--key", public)[0] == 0


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100, b'{"dsseEnvelope": {}}'])
def test_a_signature_that_is_none(folder, tmp_path, capsys, content):
    _, public = keys(tmp_path, "mine")
    (folder / "bundle.sig").write_bytes(content)
    code, text = run(capsys, "verify", folder, "--key", public)
    assert code == 1 and "is not what the owner of" in text


def test_bad_use(folder, tmp_path, capsys):
    private, public = keys(tmp_path, "mine")
    for words, message in (
        (("sign", folder, "--key", tmp_path / "none.pem"), "there is no such file"),
        (("verify", folder, "--key", public), "there is no signature at"),
        (("sign", folder, "--key", public), "cannot sign"),
        (("sign", tmp_path, "--key", private), "is no bundle"),
        (("--quiet", "sign"), "write 'sign' first"),
    ):
        code, text = run(capsys, *words)
        assert code in (1, 2) and message in text
