"""Serve this folder, and bundles beside it, with the headers that threads need.

`python3 serve.py [--port N] [--bundle NAME=FOLDER]`: http://localhost:8000/, and each bundle at
/NAME/. Threads of WebAssembly share memory, which browsers allow a page only when it is
cross-origin isolated: both headers below on the page and on what it loads.
"""

import argparse
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cache-Control": "no-cache",  # the service worker keeps what works offline
}


class Handler(SimpleHTTPRequestHandler):
    """Files of the page's folder, or of a bundle's where the path begins with its name."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def __init__(self, *args, bundles: dict[str, str], **kwargs) -> None:  # type: ignore[no-untyped-def]
        self.bundles = bundles
        super().__init__(*args, **kwargs)

    def translate_path(self, path: str) -> str:
        """Where a request's file lies; the base class lets no path lead out of a folder."""
        name, _, rest = path.lstrip("/").partition("/")
        if name not in self.bundles:
            return super().translate_path(path)
        page, self.directory = self.directory, self.bundles[name]
        try:
            return super().translate_path(f"/{rest}")
        finally:
            self.directory = page

    def copyfile(self, source, outputfile) -> None:  # type: ignore[no-untyped-def]
        """Send a file; a browser that goes away is no error."""
        with suppress(ConnectionError):
            super().copyfile(source, outputfile)

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *args: object) -> None:
        pass


def main() -> None:
    """Serve until interrupted."""
    command_line = argparse.ArgumentParser(description="serve the page with its headers")
    command_line.add_argument("--port", type=int, default=8000, help="0: any that is free")
    command_line.add_argument("--bundle", action="append", default=[], metavar="NAME=FOLDER")
    args = command_line.parse_args()
    bundles = dict(bundle.split("=", 1) for bundle in args.bundle)
    handler = partial(Handler, directory=str(Path(__file__).parent), bundles=bundles)
    # This machine alone: the page is for its own browser.
    with ThreadingHTTPServer(("localhost", args.port), handler) as server:
        print(f"http://localhost:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
