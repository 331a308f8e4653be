"""The host in Node makes Python's pictures, finds what differs, and says in a line what failed."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from host_tools import SPOILED_FILES
from js_hosts import copied, node_host, pixels, units, with_golden_value
from tokenizers import AddedToken, Tokenizer

from exporter.options import ExportOptions
from runtimes.bundle.host import NOISE, PICTURE, SCHEDULE
from runtimes.cli import main as runtimes
from runtimes.errors import RunError, UsageError
from runtimes.images import to_uint8
from runtimes.schedule import even_timesteps, schedule, timestep_embedding
from runtimes.sizes import sizes
from runtimes.tolerances import NOISE as NOISE_LIMIT
from runtimes.tolerances import SAME_SEED_LEVELS, STEP

SHORT = ("--steps", 3, "--decoder-steps", 2)
STYLE = "<My-Style>"


@pytest.mark.parametrize("seed", [0, 7, -1, 2**32 + 7])
def test_noise_is_torch_randn(seed):
    draws = [16, 20, 4096, 1001]
    made = units(noise={"rules": asdict(NOISE), "seed": str(seed), "draws": draws})["noise"]
    generator = torch.Generator().manual_seed(seed)
    for values, size in zip(made, draws, strict=True):
        wanted = torch.randn(size, generator=generator).numpy()
        assert np.abs(np.array(values) - wanted).max() <= NOISE_LIMIT


@pytest.mark.parametrize("steps", [1, 2, 7, 29, 60])
@pytest.mark.parametrize("scaler", [1.0, 2.0, 0.5])
def test_schedules_of_any_steps_are_pythons(bundles, steps, scaler):
    denoiser = bundles("one_level").manifest.sampling.stage_c
    asked = {"denoiser": asdict(denoiser) | {"scaler": scaler}, "rules": asdict(SCHEDULE)}
    made = units(schedule=asked | {"steps": steps})["schedule"]
    wanted = schedule(even_timesteps(steps), denoiser.s, scaler)
    for mine, row in zip(made, wanted, strict=True):
        assert mine["t"] == row.t
        assert mine["embedding"] == timestep_embedding(row.t, denoiser)[0].tolist()
        for name in "abc":
            # Powers differ by a unit in the last place from one library to the next.
            limit = 0 if scaler == 1 else STEP[scaler]
            assert mine[name] == pytest.approx(getattr(row, name), rel=limit, abs=0)


@pytest.mark.parametrize(
    "flags",
    [{}, {"single_word": True}, {"lstrip": True}, {"rstrip": True}, {"normalized": False}],
    ids=str,
)
def test_added_tokens_are_found_as_the_tokenizers_library_finds_them(bundles, flags):
    bundle = bundles("one_level")
    spec = bundle.manifest.tokenizers["text_encoder"]
    folder = bundle.path(spec.folder)
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.add_tokens([AddedToken(STYLE, **flags)])
    value = asdict(spec)
    token = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    token |= {"normalized": True, "content": STYLE, "id": library.token_to_id(STYLE)} | flags
    value["rules"]["added"] += (token,)
    prompts = [
        f"a {STYLE} dog", f"a{STYLE}b", f"{STYLE.lower()}  {STYLE.upper()}", f"x  {STYLE}  y",
        STYLE, f"<|ENDOFTEXT|>{STYLE},", f"é{STYLE}_",
    ]  # fmt: skip
    made = units(
        ids={
            "spec": value,
            "vocab": json.loads((folder / "vocab.json").read_text(encoding="utf-8")),
            "merges": (folder / "merges.txt").read_text(encoding="utf-8"),
            "prompts": prompts,
        }
    )["ids"]
    assert made == [library.encode(text, add_special_tokens=False).ids for text in prompts]


def test_sizes_and_what_does_not_close_are_pythons(bundles):
    manifest = bundles("public").manifest
    asked = [(side, 128) for side in (1, 20, 64, 100, 128, 129, 256, 300, 1024)]
    made = units(sizes={"manifest": asdict(manifest), "sizes": asked})["sizes"]
    for (height, width), mine in zip(asked, made, strict=True):
        try:
            wanted = sizes(height, width, manifest.sampling)
        except UsageError as error:
            assert mine == {"error": str(error), "exitCode": UsageError.exit_code}
        else:
            assert mine == json.loads(json.dumps(asdict(wanted)))


def test_bytes_are_rounded_as_python_rounds():
    halves = (np.arange(1, 511, 2, dtype=np.float32) / np.float32(510)).tolist()
    values = np.array([-0.5, 1.5, *halves, 0.25], np.float32)
    values = values[: len(values) // 3 * 3]
    made = units(bytes={"rules": asdict(PICTURE), "values": values.tolist()})["bytes"]
    image = np.clip(values, 0, 1).reshape(1, 3, 1, -1)
    assert made == to_uint8(image)[0].reshape(-1).tolist()


def test_paths_that_lead_out_of_the_folder():
    paths = ["a/b.json", "../x", "a/../x", "/etc/x", "a\\..\\x", "c:/x", "a//b", "./a", ""]
    made = units(inside={"paths": paths})["inside"]
    assert made[0] == "inside"
    assert all("a path outside the bundle" in refused["error"] for refused in made[1:])


def test_weights_that_no_memory_holds(bundles):
    value = asdict(bundles("one_level").manifest)
    file = value["graphs"]["stage_c"]["file"]
    asked = {"manifest": value, "graph": "stage_c", "free": 8e9}
    assert units(fits=asked)["fits"] == ["fits", "fits"]
    value["files"][file]["size"] = 5_000_000_000
    web, rest = units(fits=asked)["fits"]
    assert "a WebAssembly memory ends at 4 GiB; take an int8 or int4 bundle" in web["error"]
    assert rest == "fits"
    value["files"][file]["size"] = 9_000_000_000
    assert "9.0 GB of weights, 8.0 GB are free" in units(fits=asked)["fits"][1]["error"]


def test_errors_of_memory_are_told_apart_from_others():
    memory = ["std::bad_alloc", "Aborted(OOM)", "Array buffer allocation failed"]
    memory += ["Failed to allocate memory for requested buffer of size 123", "Out of memory"]
    made = units(errors={"messages": [*memory, "no room in the\nbloom filter"]})["errors"]
    assert all(text.startswith("it: out of memory (") for text in made[:-1])
    assert made[-1] == "it: no room in the bloom filter"


@pytest.mark.parametrize("name", ["one_level", "public"])
def test_the_golden_run_is_replayed_and_run(bundles, name):
    folder = bundles(name).folder
    replayed = node_host(folder, "--replay", "--json")
    assert (replayed.returncode, replayed.stderr) == (0, "")
    compared = json.loads(replayed.stdout)
    assert len(compared) > 50 and {one["error"] for one in compared} == {0}
    checked = node_host(folder, "--check")
    assert (checked.returncode, checked.stderr) == (0, "")
    told = [line.split(":")[0] for line in checked.stdout.splitlines()]
    graphs = [f"graph {call.graph}" for call in bundles(name).manifest.host.run]
    assert [*dict.fromkeys(told)] == ["replay", "tokens", *graphs, "own run"]


@pytest.mark.parametrize(
    "options",
    [
        ("--seed", 3, "--decoder-guidance", 1.7, "--size", "192x120"),
        ("--seed", -7, "--negative-prompt", "blue, ugly", "--guidance", 6, "--low-memory"),
        ("--seed", 2**40 + 1, "--guidance", 0.5, "--threads", 1),
    ],
    ids=["size and guidance of both", "negative prompt", "no guidance"],
)
def test_pictures_are_pythons(bundles, tmp_path, options):
    folder = bundles("one_level").folder
    mine, theirs = tmp_path / "node.png", tmp_path / "python.png"
    words = [folder, "a small blue star", *SHORT, *options]
    done = node_host(*words, "-o", mine, "--json")
    assert done.returncode == 0, done.stderr
    assert runtimes([str(word) for word in (*words, "-o", theirs, "--quiet")]) == 0
    assert np.abs(pixels(mine) - pixels(theirs)).max() <= SAME_SEED_LEVELS
    told = json.loads(done.stdout)
    assert (told["height"], told["width"]) == pixels(mine).shape[:2]
    assert (
        told["peak_bytes"] > 0
        and told["seconds"]["graphs"].keys() == bundles("one_level").manifest.graphs.keys()
    )


@pytest.mark.parametrize(
    ("tensor", "stage"),
    [
        ("stage_c/1.noise", "replay: stage_c: noise"),
        ("stage_b/0.latents", "replay: stage_b: latents"),
        ("stage_c_condition.text_kv", "graph stage_c_condition"),
        ("stage_a.image", "graph stage_a"),
    ],
)
def test_a_changed_byte_of_the_golden_run_is_named(bundles, tmp_path, tensor, stage):
    folder = with_golden_value(bundles("one_level").folder, tmp_path / "bundle", tensor)
    done = node_host(folder, "--check", "--quiet")
    assert done.returncode == RunError.exit_code
    assert f"{stage}" in done.stderr and f"'{tensor}' is the first tensor" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_prompt_that_is_too_long_is_cut_as_python_cuts_it(bundles, tmp_path, capsys):
    words = [bundles("one_level").folder, "red circle, blue star " * 30, *SHORT, "--quiet", "-o"]
    done = node_host(*words, tmp_path / "node.png")
    assert done.returncode == 0
    assert runtimes([str(word) for word in (*words, tmp_path / "python.png")]) == 0
    assert done.stderr == capsys.readouterr().err
    assert np.array_equal(pixels(tmp_path / "node.png"), pixels(tmp_path / "python.png"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "there is no prompt"),
        (["a", "b"], "'b' is one too many"),
        (["a", "--cfg", "3"], "--cfg"),
        (["a", "--steps", "0"], "--steps is 0"),
        (["a", "--steps", "many"], "'many'; it must be a whole number"),
        (["a", "--guidance", "nan"], "it must be a number"),
        (["a", "--seed", "1.5"], "--seed is '1.5'"),
        (["a", "--size", "200"], "height x width"),
        (["a", "--size", "128x128", "--height", "64"], "exclude each other"),
        (["a", "--size", "60x128"], "the nearest valid height is 128"),
        (["a", "-o", "x.jpg"], "end the name in .png"),
        (["a", "-o", "/no such folder/x.png"], "does not exist"),
        (["a", "--check"], "leave the prompt out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options(bundles, tmp_path, options, message):
    output = [] if "-o" in options or "--check" in options else ["-o", tmp_path / "x.png"]
    said_in_one_line(node_host(bundles("public").folder, *options, *output), UsageError, message)


def golden_hash(value):
    value["files"]["golden/run.safetensors"]["sha256"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=3), "format version 3, this host reads 2"),
        (lambda m: m.update(format_version=1), "format version 1, this host reads 2"),
        (lambda m: m["host"]["noise"].update(algorithm="philox"), 'algorithm is "philox"'),
        (lambda m: m["host"]["schedule"].update(kind="linear"), "host.schedule.kind"),
        (lambda m: m.pop("host"), "host.run is missing"),
        (lambda m: m["files"].update({"../x": {"size": 1, "sha256": ""}}), "outside the bundle"),
        (lambda m: m["graphs"]["stage_a"].update(file="stage_a/../../x"), "names no stage_a/../"),
        (lambda m: m["host"]["run"][1]["feeds"][0].update(output="x"), "reads 'text_encoder.x'"),
        (lambda m: m["host"]["run"][1].update(when="sometimes"), "runs 'sometimes'"),
        (golden_hash, "SHA-256 differs"),
        (lambda m: m["files"]["tokenizer/vocab.json"].update(size=1), "the manifest says 1"),
        (lambda m: m["sampling"].update(latent_mean=1.0), "stage_b_condition.image_embedding"),
        (lambda m: m["sampling"]["stage_b"].update(s=0.01), "sampling.stage_b.schedule"),
        (lambda m: m["tokenizers"]["text_encoder"].update(pad_id=0), "text_encoder.input_ids"),
    ],
)
def test_bad_manifests(bundles, tmp_path, change, message):
    source = bundles("one_level").folder
    tokenizer = next(iter(bundles("one_level").manifest.tokenizers.values())).folder

    def changed(value):
        if "tokenizer/vocab.json" not in value["files"]:
            value["files"]["tokenizer/vocab.json"] = value["files"][f"{tokenizer}/vocab.json"]
        change(value)

    folder = copied(source, tmp_path / "bundle", changed)
    said_in_one_line(node_host(folder, "--check", "--quiet"), RunError, message)


@pytest.mark.parametrize("fault", SPOILED_FILES)
def test_files_that_are_not_what_they_should_be(bundles, tmp_path, fault):
    spoil, message = SPOILED_FILES[fault]
    folder = copied(bundles("one_level").folder, tmp_path / "bundle", lambda value: None)
    spoil(folder)
    done = node_host(folder, "a", *SHORT, "-o", tmp_path / "x.png", "--quiet")
    said_in_one_line(done, RunError, message)
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (("--guidance", "1e30"), RunError, "NaN or infinite; lower --guidance, which is 1e+30"),
        # Latents of 10^9 cells are beyond what JavaScript allots at once.
        (("--size", "1000008x1000008"), RunError, "out of memory"),
    ],
)
def test_what_fails_while_it_runs(bundles, tmp_path, options, error, message):
    words = (bundles("one_level").folder, "a", *SHORT, *options, "-o", tmp_path / "x.png")
    said_in_one_line(node_host(*words, "--quiet"), error, message)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [ExportOptions(text=False), ExportOptions(static=True, height=128, width=256)]
)
def test_text_free_and_fixed_bundles(bundles, tmp_path, options):
    folder = bundles("public", options).folder
    assert node_host(folder, "--check", "--quiet").returncode == 0
    words = [folder, "a star", *SHORT, "--quiet", "-o"]
    assert node_host(*words, tmp_path / "node.png").returncode == 0
    assert runtimes([str(word) for word in (*words, tmp_path / "python.png")]) == 0
    mine, theirs = pixels(tmp_path / "node.png"), pixels(tmp_path / "python.png")
    assert np.abs(mine - theirs).max() <= SAME_SEED_LEVELS
    if options.static:
        for asked, message in (
            (("--size", "256x256"), "this bundle makes pictures of"),
            (("--guidance", "1"), "was exported for a batch of 2, this run needs 1"),
        ):
            said_in_one_line(node_host(*words, tmp_path / "x.png", *asked), UsageError, message)


def said_in_one_line(done, error: type[UsageError | RunError], message: str) -> None:
    """The exit code, one line on standard error, nothing beside it."""
    assert done.returncode == error.exit_code, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
