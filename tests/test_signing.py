"""exporter sign and verify: whose bundle it is, by a key and the model-signing package."""

import base64
import json
import shutil
from pathlib import Path

import manifests
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from model_signing import signing

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


def test_a_signature_of_something_else_is_none_of_the_bundle(folder, tmp_path, capsys):
    """Of the same owner, and a file that lies in the bundle, too."""
    private, public = keys(tmp_path, "mine")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/note.txt").write_text("no bundle")
    signer = signing.Config().use_elliptic_key_signer(private_key=private)
    signer.sign(tmp_path / "notes", folder / "bundle.sig")
    shutil.copy(tmp_path / "notes/note.txt", folder)
    code, text = run(capsys, "verify", folder, "--key", public)
    assert code == 1 and "the signature is not for README.md" in text


def test_a_signature_is_no_file_of_the_bundle(folder, tmp_path, capsys):
    private, _ = keys(tmp_path, "mine")
    path = folder / "stage_a/model.onnx"
    before = path.read_bytes()
    code, text = run(capsys, "sign", folder, "--key", private, "--signature", path, "--overwrite")
    assert code == 2 and "is a file of the bundle" in text and path.read_bytes() == before


def test_keys_of_another_kind(folder, tmp_path, capsys):
    key = rsa.generate_private_key(65537, 2048)
    (tmp_path / "rsa.pem").write_bytes(key.private_bytes(PEM, PRIVATE, OPEN))
    (tmp_path / "rsa.pub").write_bytes(key.public_key().public_bytes(PEM, PUBLIC))
    code, text = run(capsys, "sign", folder, "--key", tmp_path / "rsa.pem")
    assert code == 1 and "cannot sign" in text
    run(capsys, "sign", folder, "--key", keys(tmp_path, "mine")[0])
    code, text = run(capsys, "verify", folder, "--key", tmp_path / "rsa.pub")
    assert code == 1 and "is not what the owner of" in text


def test_a_forged_signature(folder, tmp_path, capsys):
    private, public = keys(tmp_path, "mine")
    run(capsys, "sign", folder, "--key", private)
    path = folder / "bundle.sig"
    value = json.loads(path.read_text())
    value["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(b"nothing").decode()
    path.write_text(json.dumps(value))
    code, text = run(capsys, "verify", folder, "--key", public)
    assert code == 1 and "is not what the owner of" in text


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff" * 100, b'{"dsseEnvelope": {}}', b"[" * 100_000]
)
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
