"""Pictures made on a Ray cluster: the same bits for any number of workers, whoever dies of them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import manifests
import psutil
import pytest
from ray.cluster_utils import Cluster
from test_shards import PROMPTS, contents, without_times

from runtimes import ray_cluster, ray_pool
from runtimes.cli import main as runtimes_main
from runtimes.errors import RunError, UsageError
from validation.cli import main

STORE = 100_000_000  # bytes, of a node's objects
NODE = {"object_store_memory": STORE, "include_dashboard": False}
WORKER = "ray::MapWorker"


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of four CPUs on this machine."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, **NODE})
    yield made.address
    end(made)


def end(made: Cluster) -> None:
    """Stop a cluster, and remove what it left in the folder of Ray's sessions."""
    address, session = made.address, Path(made.head_node.get_session_dir_path())
    made.shutdown()
    until(lambda: not [one for one in psutil.process_iter() if address in said(one)])
    shutil.rmtree(session, ignore_errors=True)


@pytest.fixture
def words(bundles, tmp_path) -> list[str]:
    """`quality` of five prompts on one thread; the folder is what follows."""
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    folder = str(bundles("one_level").folder)
    return ["quality", folder, "--prompts", str(path), "--seed", "3", "--threads", "1", "-o"]


def until(true: Callable[[], object], process: subprocess.Popen | None = None) -> None:
    """Wait for something that comes, however slow the machine is."""
    deadline = time.monotonic() + 300
    while not true():
        assert process is None or process.poll() is None, "it ended before"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def workers(of: psutil.Process | str) -> list[psutil.Process]:
    """The processes that hold a worker of a cluster: by its address, or by whose own it is."""
    if isinstance(of, psutil.Process):
        return [one for one in of.children(recursive=True) if said(one).startswith(WORKER)]
    nodes = [one for one in psutil.process_iter() if f"={of} " in said(one)]
    return [one for node in nodes for one in node.children() if said(one).startswith(WORKER)]


def said(process: psutil.Process) -> str:
    """A process's command line, which Ray's change; '' once it has ended."""
    try:
        return " ".join([*process.cmdline(), ""])
    except psutil.Error:
        return ""


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts runs in processes of their own, which end with the test."""
    processes = []

    def start(*words, sessions: str | None = None) -> subprocess.Popen:
        """`sessions` is where its own cluster keeps its logs."""
        command = [sys.executable, "-m", "validation", *map(str, words)]
        env = os.environ | ({} if sessions is None else {"RAY_TMPDIR": sessions})
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(command, **pipes, text=True, env=env))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("pictures/[0-9]*")}


# The same pictures


def test_a_pool_makes_the_same_bits(capsys, words, tmp_path, cluster):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(capsys, *words, whole)[0] == 0
    on_ray = [*words, out, "--ray", cluster, "--workers", "2", "--quiet"]
    assert run(capsys, *on_ray) == (0, "", "")  # no word of Ray's
    assert contents(out) == contents(whole)
    assert without_times(out / "quality.json") == without_times(whole / "quality.json")
    before = times(out)
    assert run(capsys, *words, out, "--ray", cluster) == run(capsys, *words, out)
    assert times(out) == before and len(before) == 2 * len(PROMPTS)
    (out / "pictures/00002.png").unlink()
    assert run(capsys, *words, out, "--ray", cluster, "--quiet") == (0, "", "")
    again = times(out)
    changed = {path.stem for path in again if again[path] != before[path]}
    assert changed == {"00002"} and contents(out) == contents(whole)


@pytest.mark.slow
@pytest.mark.parametrize("count", ["1", "4"])
def test_any_number_of_workers_makes_the_same_bits(capsys, words, tmp_path, cluster, count):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(capsys, *words, whole)[0] == 0
    assert run(capsys, *words, out, "--ray", cluster, "--workers", count)[0] == 0
    assert contents(out) == contents(whole)
    assert without_times(out / "quality.json") == without_times(whole / "quality.json")


@pytest.mark.slow
def test_one_thread_is_the_default_and_said(capsys, words, tmp_path, cluster):
    out, words = tmp_path / "out", [word for word in words if word not in ("--threads", "1")]
    assert run(capsys, *words, out, "--ray", cluster)[0] == 0
    value = json.loads((out / "quality.json").read_text())
    assert value["execution"] == [None, "cpu", None, 1]
    code, _, err = run(capsys, *words, out)
    assert code == 2 and "holds another run (execution" in err


@pytest.mark.slow
def test_shards_on_a_pool_are_the_whole_run(capsys, words, tmp_path, cluster):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(capsys, *words, whole)[0] == 0
    for shard in ("1/2", "2/2"):
        assert run(capsys, *words, out, "--ray", cluster, "--shard", shard)[0] == 0
    assert run(capsys, *words, out)[0] == 0
    assert contents(out) == contents(whole)


@pytest.mark.slow
def test_the_cells_of_a_sweep_go_to_one_pool(capsys, bundles, words, tmp_path, cluster):
    folder, other = bundles("one_level").folder, tmp_path / "other"
    shutil.copytree(folder, other)
    manifest = manifests.read(other)
    manifest["sampling"]["latent_mean"] *= 1.01
    manifests.write(other, manifest)
    axes = ["--guidance", "1,4", "--steps", "2", "--decoder-steps", "2", "--against", other]
    sweep = ["sweep", *words[1:-1], *axes, "--count", "3", "-o"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(capsys, *sweep, whole)[0] == 0
    code, _, err = run(capsys, *sweep, out, "--ray", cluster, "--workers", "4")
    assert code == 0 and "pictures: 12 of 12" in err
    assert contents(out) == contents(whole)
    assert without_times(out / "sweep.json") == without_times(whole / "sweep.json")


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["1", "2"])
def test_pictures_of_the_runtimes(capsys, words, tmp_path, cluster, batch):
    for name in ("whole", "out"):
        (tmp_path / name).mkdir()
    command = [words[1], "--prompts-file", words[3], "--steps", "2", "--decoder-steps", "2"]
    command += ["--threads", "1", "--batch-size", batch, "--negative-prompt", "blue", "-o"]
    whole, out = (str(tmp_path / name / "p.png") for name in ("whole", "out"))
    assert runtimes_main([*command, whole]) == 0
    assert runtimes_main([*command, out, "--ray", cluster, "--json"]) == 0
    pictures = [sorted((tmp_path / name).iterdir()) for name in ("whole", "out")]
    assert len(pictures[0]) == 5
    assert [p.read_bytes() for p in pictures[0]] == [p.read_bytes() for p in pictures[1]]
    capsys.readouterr()
    for path in pictures[1][2:4]:  # a batch of its own, whatever the size
        path.unlink()
    assert runtimes_main([*command, out, "--ray", cluster, "--skip-existing"]) == 0
    assert "skipped 3 of 5 pictures" in capsys.readouterr().out
    assert [p.read_bytes() for p in pictures[0]] == [p.read_bytes() for p in pictures[1]]


# Who dies


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing(capsys, words, tmp_path, cluster, started):
    whole, out = tmp_path / "whole", tmp_path / "out"
    prompts = Path(words[3])
    prompts.write_text("\n".join(f"{text} {n}" for text in PROMPTS for n in range(8)))
    assert run(capsys, *words, whole)[0] == 0
    process = started(*words, out, "--ray", cluster, "--workers", "2", "--json")
    until(lambda: len(times(out)) >= 4, process)
    there = {path: at for path, at in times(out).items() if path.suffix == ".png"}
    victims = workers(cluster)
    assert victims
    os.kill(victims[0].pid, signal.SIGKILL)
    text, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    assert json.loads(text)["metrics"]  # no word of Ray's about the worker that died
    assert times(out).items() >= there.items()  # none of them was written again
    assert contents(out) == contents(whole)
    assert without_times(out / "quality.json") == without_times(whole / "quality.json")


@pytest.mark.slow
def test_a_node_that_is_added_takes_its_part_and_may_go(capsys, words, tmp_path, started):
    """The run is far longer than nodes take to start, and is ended when all was seen."""
    prompts = Path(words[3])
    prompts.write_text("\n".join(f"a red circle {n}" for n in range(3000)))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **NODE})
    out = tmp_path / "out"
    try:
        process = started(*words, out, "--ray", made.address, "--quiet")
        until(lambda: len(times(out)) >= 4, process)
        assert len(workers(made.address)) == 1
        node = made.add_node(num_cpus=1, object_store_memory=STORE)
        until(lambda: len(workers(made.address)) == 2, process)
        before = len(times(out))
        until(lambda: len(times(out)) >= before + 8, process)
        made.remove_node(node, allow_graceful=False)
        after = len(times(out))
        until(lambda: len(times(out)) >= after + 40, process)  # more than was under way there
        assert len(workers(made.address)) == 1
        process.send_signal(signal.SIGINT)
        line = "error: interrupted; finished pictures are kept: run it again\n"
        assert process.communicate(timeout=300) == ("", line)
        assert process.returncode == 130
    finally:
        end(made)
    there = sorted(out.glob("pictures/[0-9]*.png"))
    assert [path.stem for path in there[:3]] == ["00000", "00001", "00002"]
    assert run(capsys, *words[:-1], "--count", "3", "-o", tmp_path / "few")[0] == 0
    found = contents(out)
    assert found.items() >= contents(tmp_path / "few").items()


@pytest.fixture
def sessions() -> Iterator[str]:
    """A folder with a short name: those of Ray's sockets have a limit."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on_where_it_was(capsys, words, tmp_path, sessions, started):
    """With its own cluster, which ends with it."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    prompts = Path(words[3])
    prompts.write_text("\n".join(f"{text} {n}" for text in PROMPTS for n in range(8)))
    on_ray = [*words, out, "--ray", "--workers", "2", "--quiet"]
    process = started(*on_ray, sessions=sessions)
    until(lambda: len(times(out)) >= 6, process)
    mine = psutil.Process(process.pid).children(recursive=True)
    working = workers(psutil.Process(process.pid))
    assert working
    process.kill()
    process.wait()
    there = {path: at for path, at in times(out).items() if path.suffix == ".png"}
    assert 2 <= len(there) < 40 and not (out / "quality.json").exists()
    until(lambda: not any(one.is_running() for one in working))
    again = started(*on_ray, sessions=sessions)
    assert again.communicate(timeout=300) == ("", "") and again.returncode == 0
    assert times(out).items() >= there.items() and len(times(out)) == 80
    assert not [path.name for path in out.rglob(".*")]
    assert run(capsys, *words, whole)[0] == 0
    assert contents(out) == contents(whole)
    assert without_times(out / "quality.json") == without_times(whole / "quality.json")
    for left in mine:  # Ray's agents look once a minute whether the rest of the cluster is there
        with suppress(psutil.NoSuchProcess):
            left.kill()


@pytest.mark.slow
def test_an_item_that_kills_every_worker_ends_the_run(cluster):
    def opener():
        return lambda item: os.kill(os.getpid(), signal.SIGKILL) if item == 3 else item

    pool = ray_cluster.Cluster(cluster, 2)
    with pytest.raises(RunError, match=r"Ray gave up: .*what was made is kept"):
        for item, made in ray_pool.spread(opener, range(6), pool):
            assert item == made != 3


def test_an_error_in_a_worker_is_the_runs(cluster):
    def opener():
        raise UsageError("the engine is not there")

    with pytest.raises(UsageError, match=r"^the engine is not there$"):
        list(ray_pool.spread(opener, range(3), ray_cluster.Cluster(cluster, 1)))


# What is refused


def test_a_bundle_that_changed_is_refused(capsys, bundles, words, tmp_path, cluster, monkeypatch):
    """Between two runs by the folder, in the middle of one by the workers."""
    folder = Path(shutil.copytree(bundles("one_level").folder, tmp_path / "bundle"))
    words[1], out = str(folder), tmp_path / "out"
    assert run(capsys, *words, out, "--shard", "1/5")[0] == 0
    manifest = manifests.read(folder)
    manifest["sampling"]["latent_mean"] *= 1.01
    monkeypatch.setattr(
        "validation.quality.filling.digest_of", lambda bundle: "of what it was before"
    )
    code, _, err = run(capsys, *words, out, "--ray", cluster)
    assert code == 1 and err.count("\n") == 1
    assert f"error: {folder} is not the bundle that the run began with" in err
    manifests.write(folder, manifest)
    code, _, err = run(capsys, *words, out, "--ray", cluster)
    assert code == 2 and "holds another run (bundle" in err and err.count("\n") == 1


def test_more_workers_than_there_is_room_for(capsys, words, tmp_path, cluster):
    code, _, err = run(capsys, *words, tmp_path / "out", "--ray", cluster, "--workers", "5")
    assert code == 2 and err == (
        "error: --ray: the cluster has 4 CPU, 5 are needed (5 x 1); give fewer --workers, or "
        "leave it out for what there is\n"
    )


def test_a_worker_on_cuda_takes_a_gpu():
    with pytest.raises(UsageError, match=r"the cluster has 0 GPU, 2 are needed \(2 x 1\)"):
        ray_pool._check_room(ray_cluster.Cluster("auto", 2, gpus=1), {"CPU": 4.0})


def test_an_address_that_nobody_answers(capsys, words, tmp_path):
    code, _, err = run(capsys, *words, tmp_path / "out", "--ray", "127.0.0.1:9")
    assert code == 2 and err.startswith("error: nobody answers at --ray 127.0.0.1:9: ")
    assert err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_something_else_than_ray_that_answers(monkeypatch):
    """What listens there never speaks: Ray itself would wait for minutes."""
    monkeypatch.setattr(ray_cluster, "_STATUS", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"--ray {address} is no Ray cluster that runs"):
            ray_cluster.check_cluster(ray_cluster.Cluster(address))


_OPEN = (
    "import ray; print(ray.init('local', num_cpus=1, include_dashboard=False, "
    "object_store_memory=100_000_000).address_info['gcs_address'], flush=True); input()"
)


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token_says_how_to_give_it(monkeypatch, sessions):
    """`ray start` asks for one wherever ~/.ray/auth_token is, and no client sends it by itself."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    env = os.environ | {"RAY_TMPDIR": sessions}
    with subprocess.Popen([sys.executable, "-c", _OPEN], **pipes, env=env, text=True) as process:
        cluster = ray_cluster.Cluster(process.stdout.readline().strip())
        ray_cluster.check_cluster(cluster)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "b" * 64)
        with pytest.raises(UsageError, match=r"asks for another token.*RAY_AUTH_TOKEN to the"):
            ray_cluster.check_cluster(cluster)
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        with pytest.raises(UsageError, match="for one at all: set RAY_AUTH_MODE=token"):
            ray_cluster.check_cluster(cluster)
        process.communicate("\n")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ray", "a red circle"], "'a red circle' is no address of a Ray cluster; give HOST"),
        (["--ray", "ray://head:10001"], "'ray://head:10001' is no address"),
        (["--workers", "2"], "--workers is for --ray"),
        (["--ray", "--workers", "0"], "--workers: 0 is too small"),
        (["--ray", "--device", "cuda:1"], "--ray with --device cuda:1: workers run on cpu, or on"),
        (["--ray", "--device", "npu"], "--ray with --device npu"),
    ],
)
def test_bad_use(capsys, words, tmp_path, more, message):
    code, _, err = run(capsys, *words, tmp_path / "out", *more)
    assert code == 2 and message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_the_runtimes_do_not_do_on_ray(capsys, words, tmp_path):
    command = [words[1], "a ring", "-o", str(tmp_path / "p.png"), "--ray"]
    assert runtimes_main([*command, "--previews", str(tmp_path / "previews")]) == 2
    assert "leave it out with --ray" in capsys.readouterr().err
    assert not (tmp_path / "previews").exists()


def test_ray_that_is_not_installed_is_named(capsys, words, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = run(capsys, *words, tmp_path / "out", "--ray")
    assert code == 2 and err == (
        "error: ray is not installed, which --ray needs: pip install 'wuerstchen-export[ray]'\n"
    )


# What is Ray's


def test_an_own_cluster_has_a_token_of_its_own(monkeypatch):
    """Ray listens on every interface; what the user says, and other clusters, stay as they are."""

    def settled(address: str, **said: str) -> dict[str, str]:
        monkeypatch.setattr(os, "environ", dict(said))
        ray_pool._settle_environment(address)
        return {name: value for name, value in os.environ.items() if "AUTH" in name}

    first, second = (settled(ray_cluster.OWN) for _ in range(2))
    assert first["RAY_AUTH_MODE"] == "token" and len(first["RAY_AUTH_TOKEN"]) == 64
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]
    assert settled(ray_cluster.OWN, RAY_AUTH_MODE="disabled") == {"RAY_AUTH_MODE": "disabled"}
    assert settled("head:6379") == settled(ray_cluster.AUTO) == {}


def test_a_signal_ends_a_command_as_it_did():
    before = signal.getsignal(signal.SIGTERM)
    with ray_pool._own_signals():
        signal.signal(signal.SIGTERM, lambda *about: None)  # as Ray does
    assert signal.getsignal(signal.SIGTERM) is before


# A worker


@pytest.mark.parametrize(
    ("items", "blocks"), [(1, 1), (2000, 2000), (2001, 1001), (10_000, 2000), (10**6, 62_500)]
)
def test_many_items_go_in_blocks_and_a_picture_is_never_far_from_the_disk(items, blocks):
    assert ray_pool.blocks_of(items) == blocks


def test_errors_of_ours_are_values_and_others_are_named():
    def opener():
        def make(item):
            raise item

        return make

    worker = ray_pool.Worker(opener)
    for error, expected in (
        (UsageError("no"), UsageError("no")),
        (RunError("no"), RunError("no")),
        (ValueError("a\nb"), RunError("a worker failed: ValueError: a b")),
    ):
        found = worker._outcome(error)
        assert (type(found), str(found)) == (type(expected), str(expected))


def test_an_opener_that_fails_is_an_outcome_of_each_item():
    def opener():
        raise UsageError("the engine is not there")

    assert str(ray_pool.Worker(opener)._outcome(0)) == "the engine is not there"
