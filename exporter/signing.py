"""Sign a bundle with a key, and verify what somebody else signed: by the model-signing package.

A bundle's hashes say that its files are those of its manifest; a signature says whose manifest it
is. Signed is what the manifest names, and the manifest, by an elliptic-curve key in PEM. Nothing is
sent anywhere, and no certificate, time stamp or public log is involved.
"""

import argparse
import base64
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtimes.arguments import Parser
from runtimes.bundle.atomic_file import atomic_file
from runtimes.bundle.manifest import MANIFEST_NAME
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.bundle.untrusted import parse_json, read_regular
from runtimes.console import require, run_cli
from runtimes.errors import RunError, UsageError, one_line

SIGNATURE = "bundle.sig"  # in the bundle's folder, where no manifest names it and no engine looks
_PACKAGES = ("model_signing", "OpenSSL")
_MOST_BYTES = 10_000_000  # of a signature: it has a line for each file
_PASSWORD = "WUERSTCHEN_KEY_PASSWORD"  # of the environment: a command line is for all to see


def sign(bundle: Bundle, key: Path, signature: Path, password: str | None = None) -> None:
    """Sign a bundle, whose files were verified, with a private key.

    RunError for a key that is none, or whose password is another.
    """
    require(_PACKAGES, "sign")
    from model_signing import signing

    # Bytes, whatever the package's own types say: cryptography takes no text.
    secret: Any = None if password is None else password.encode()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / SIGNATURE
        try:
            config = signing.Config().use_elliptic_key_signer(private_key=key, password=secret)
            config.set_hashing_config(_hashed(bundle)).sign(bundle.folder, made)
        except Exception as error:  # those of three packages share no base class
            raise RunError(f"{key} cannot sign: {_said(error)}") from error
        with atomic_file(signature) as file:
            file.write(made.read_bytes())


def verify(bundle: Bundle, key: Path, signature: Path) -> None:
    """RunError unless the owner of a public key signed this very bundle."""
    require(_PACKAGES, "sign")
    from model_signing import verifying

    try:
        content = read_regular(signature, _MOST_BYTES)
        with tempfile.TemporaryDirectory() as folder:
            read = Path(folder) / SIGNATURE  # what is verified and looked into is the same
            read.write_bytes(content)
            config = verifying.Config().use_elliptic_key_verifier(public_key=key)
            # What is no part of a bundle may lie in its folder: openers refuse what is in the way.
            config.set_ignore_unsigned_files(True).verify(bundle.folder, read)
        unsigned = {MANIFEST_NAME, *bundle.manifest.files} - _signed(content)
    except Exception as error:  # as above
        raise RunError(
            f"{bundle.folder} is not what the owner of {key} signed: {_said(error)}"
        ) from error
    if unsigned:
        raise RunError(
            f"{bundle.folder} is not what the owner of {key} signed: the signature is not for "
            f"{min(unsigned)}"
        )


def _signed(signature: bytes) -> set[str]:
    """The files that a signature is for, whose payload was verified."""
    payload = parse_json(base64.b64decode(parse_json(signature)["dsseEnvelope"]["payload"]))
    return {resource["name"] for resource in payload["predicate"]["resources"]}


def _said(error: Exception) -> str:
    return one_line(error)[:200] or type(error).__name__


def _hashed(bundle: Bundle):  # type: ignore[no-untyped-def]  # of a package that has no types
    """Hash what the manifest names, and nothing else."""
    from model_signing import hashing

    ignored = [bundle.path(name) for name in bundle.strangers()]
    config = hashing.Config().use_file_serialization(allow_symlinks=True)  # as hub caches have them
    return config.set_ignored_paths(paths=ignored, ignore_git_paths=False)


def sign_parser() -> argparse.ArgumentParser:
    """The command line of `python -m exporter sign`."""
    parser = Parser(
        prog="python -m exporter sign",
        description="Sign a bundle with a private key (elliptic curve, PEM), by the model-signing "
        f"package. The password of an encrypted key is read from {_PASSWORD}.",
    )
    _add_options(parser, "private", "write")
    parser.add_argument("--overwrite", action="store_true", help="replace a signature")
    return parser


def verify_parser() -> argparse.ArgumentParser:
    """The command line of `python -m exporter verify`."""
    parser = Parser(
        prog="python -m exporter verify",
        description="Verify every file of a bundle, and that the owner of a public key (elliptic "
        "curve, PEM) signed it.",
    )
    _add_options(parser, "public", "read")
    return parser


def _add_options(parser: argparse.ArgumentParser, kind: str, use: str) -> None:
    add = parser.add_argument
    add("bundle", type=Path, help="a bundle's folder")
    add("--key", type=Path, required=True, metavar="FILE", help=f"the {kind} key")
    add(
        "--signature",
        type=Path,
        metavar="FILE",
        help=f"signature to {use} (default: {SIGNATURE} in the bundle's folder)",
    )
    add("--quiet", action="store_true", help="print errors only")
    add("--debug", action="store_true", help="show the traceback of an error")


def main_sign(argv: Sequence[str]) -> int:
    """Run `python -m exporter sign`; returns the exit code."""
    return run_cli(sign_parser(), _sign, argv, interrupted="nothing was signed")


def main_verify(argv: Sequence[str]) -> int:
    """Run `python -m exporter verify`; returns the exit code."""
    return run_cli(verify_parser(), _verify, argv, interrupted="nothing was verified")


def _sign(args: argparse.Namespace) -> None:
    signature = _check(args)
    if signature.exists() and not args.overwrite:
        raise UsageError(f"{signature} exists; give --overwrite to replace it")
    bundle = open_bundle(args.bundle, hashes="fresh", verify_rest=True)
    parts = [bundle.path(name).resolve() for name in (MANIFEST_NAME, *bundle.manifest.files)]
    if signature.resolve() in parts:
        raise UsageError(f"--signature {signature} is a file of the bundle; give another name")
    sign(bundle, args.key, signature, os.environ.get(_PASSWORD))
    if not args.quiet:
        print(f"signed {len(bundle.manifest.files) + 1} files of {bundle.folder}: {signature}")


def _verify(args: argparse.Namespace) -> None:
    signature = _check(args)
    if not signature.is_file():
        raise UsageError(f"there is no signature at {signature}; give one with --signature")
    bundle = open_bundle(args.bundle, hashes="fresh", verify_rest=True)
    verify(bundle, args.key, signature)
    if not args.quiet:
        print(f"{bundle.folder} is as the owner of {args.key} signed it")


def _check(args: argparse.Namespace) -> Path:
    """Where the signature is to be; UsageError for what is missing."""
    require(_PACKAGES, "sign")
    logging.getLogger("model_signing").setLevel(logging.ERROR)
    if not args.key.is_file():
        raise UsageError(f"--key {args.key}: there is no such file")
    signature: Path = args.signature or args.bundle / SIGNATURE
    return signature
