"""Nothing is gathered or sent: ONNX Runtime's wheels do both unless they are told not to."""

import os
import subprocess
import sys


def test_a_run_leaves_nothing_but_our_own_cache(bundles, tmp_path):
    """Telemetry keeps a queue and a device's id in the user's cache and the temporary folder."""
    places = {name: tmp_path / name.lower() for name in ("TMPDIR", "XDG_CACHE_HOME", "HOME")}
    for place in places.values():
        place.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    words = [str(bundles("one_level").folder), "a", "-o", str(tmp_path / "a.png")]
    words += ["--steps", "1", "--decoder-steps", "1", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "runtimes", *words],
        check=True,
        env=environment | {name: str(place) for name, place in places.items()},
    )
    left = {
        path.relative_to(place).parts[0] for place in places.values() for path in place.iterdir()
    }
    assert left == {"wuerstchen-export"}
