"""The page at `/`."""


def page() -> tuple[bytes, str]:
    """The page (UTF-8) and the value of its Content-Security-Policy header."""
    return b"<!doctype html><title>Wuerstchen</title>", "default-src 'none'"
