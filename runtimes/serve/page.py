"""The page at `/`: one document made of the files in web/, and the policy that guards it."""

import base64
import hashlib
from pathlib import Path

WEB = Path(__file__).with_name("web")
DOCUMENT = "page.html"
STYLES = ("page.css",)
# One module: each file uses what those before it define.
SCRIPTS = ("events.js", "options.js", "gallery.js", "main.js")
_STYLE, _SCRIPT = "<style>", '<script type="module">'


def page() -> tuple[bytes, str]:
    """The document in UTF-8, and the value of its Content-Security-Policy header.

    The policy lets run what is in the document and nothing else, and that talk to this server only.
    """
    style, script = _together(STYLES), _together(SCRIPTS)
    text = _filled(_filled(_read(DOCUMENT), _STYLE, style), _SCRIPT, script)
    return text.encode(), "; ".join(_policy(style, script))


def _policy(style: str, script: str) -> tuple[str, ...]:
    return (
        "default-src 'none'",
        f"script-src {_hashed(script)}",
        f"style-src {_hashed(style)}",
        "img-src 'self' data: blob:",  # blob: pictures to be saved, data: previews
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )


def _filled(document: str, tag: str, text: str) -> str:
    return document.replace(tag, tag + text, 1)


def _together(names: tuple[str, ...]) -> str:
    return "\n" + "\n".join(_read(name) for name in names)


def _read(name: str) -> str:
    return (WEB / name).read_text(encoding="utf-8")


def _hashed(text: str) -> str:
    """The source of a policy that stands for an element with exactly this text."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
