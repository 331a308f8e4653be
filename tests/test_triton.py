"""A model repository for Triton, and its model on a stand-in for Triton's Python module.

`FakeTriton` has of `triton_python_backend_utils` what the model uses, by its documentation; that
the real one does the same is what tests/test_host_triton.py shows.
"""

import importlib.util
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from exporter.triton.cli import main
from exporter.triton.repository import INPUTS, Request, config, write_repository
from runtimes import Options, Pipeline
from runtimes.errors import UsageError

TYPES = {
    "TYPE_STRING": np.object_, "TYPE_INT64": np.int64, "TYPE_INT32": np.int32,
    "TYPE_FP32": np.float32,
}  # fmt: skip
REQUEST = Request("m", 3, 250_000, True, "openvino", 2, True)


class Tensor:
    def __init__(self, name, values):
        self.name, self._values = name, values

    def as_numpy(self):
        return self._values


class InferenceResponse:
    def __init__(self, output_tensors=(), error=None):
        self.outputs = {tensor.name: tensor.as_numpy() for tensor in output_tensors}
        self.error = error


class TritonError:
    def __init__(self, message):
        self.message = message


FakeTriton = SimpleNamespace(
    Tensor=Tensor,
    InferenceResponse=InferenceResponse,
    TritonError=TritonError,
    get_input_tensor_by_name=lambda request, name: request.get(name),
)


def request(**values):
    """Inputs by name, each a list of one value a picture."""
    made = {}
    for name, rows in values.items():
        array = np.empty((len(rows), 1), TYPES[INPUTS[name]])
        array[:, 0] = [row.encode() if isinstance(row, str) else row for row in rows]
        made[name] = Tensor(name, array)
    return made


@pytest.fixture(scope="module")
def repository(bundles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("triton") / "models"
    assert main([str(bundles("one_level").folder), str(folder), "--name", "demo"]) == 0
    return folder


@pytest.fixture(scope="module")
def model(repository):
    sys.modules["triton_python_backend_utils"] = FakeTriton
    path = repository / "demo/1/model.py"
    spec = importlib.util.spec_from_file_location("triton_model", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    parameters = {name: {"string_value": ""} for name in ("engine", "threads", "low_memory")}
    model.initialize(
        {
            "model_config": json.dumps({"max_batch_size": 4, "parameters": parameters}),
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )
    yield model
    model.finalize()
    del sys.modules["triton_python_backend_utils"]


@pytest.fixture(scope="module")
def pipeline(bundles):
    with Pipeline.open(bundles("one_level").folder) as pipeline:
        yield pipeline


def alone(pipeline, prompt, seed, **options):
    return pipeline([prompt], options=Options(seed=seed, **options)).pictures[0].astype(int)


def test_requests_of_one_batch_are_the_pictures_they_are_alone(model, pipeline):
    """Two of equal options, one of others, one of several pictures: each its own response."""
    first, second, third, several = model.execute(
        [
            request(PROMPT=["a circle"], SEED=[1], STEPS=[2]),
            request(PROMPT=["a star"], SEED=[2], STEPS=[2]),
            request(PROMPT=["a ring"], SEED=[3], STEPS=[3], GUIDANCE=[2.5]),
            request(PROMPT=["one", "two"], SEED=[4, -5], STEPS=[2, 2]),
        ]
    )
    for response, prompt, seed, options in (
        (first, "a circle", 1, {"steps": 2}),
        (second, "a star", 2, {"steps": 2}),
        (third, "a ring", 3, {"steps": 3, "guidance": 2.5}),
    ):
        assert response.outputs["SEED"].tolist() == [[seed]]
        image = response.outputs["IMAGE"]
        assert image.dtype == np.uint8
        assert np.abs(image[0] - alone(pipeline, prompt, seed, **options)).max() <= 1
    image = several.outputs["IMAGE"]
    assert np.abs(image[0] - alone(pipeline, "one", 4, steps=2)).max() <= 1
    assert np.abs(image[1] - alone(pipeline, "two", -5, steps=2)).max() <= 1


def test_a_seed_that_is_not_given_is_drawn_and_said(model, pipeline):
    (response,) = model.execute([request(PROMPT=["a circle"], STEPS=[1])])
    seed = int(response.outputs["SEED"][0, 0])
    own = alone(pipeline, "a circle", seed, steps=1)
    assert np.abs(response.outputs["IMAGE"][0] - own).max() <= 1


def test_what_is_wrong_with_one_request_spares_the_others(model):
    bad = np.array([[b"\xff\xfe"]], np.object_)
    responses = model.execute(
        [
            request(PROMPT=["a circle"], STEPS=[1]),
            request(PROMPT=["a circle"], STEPS=[0]),
            {"PROMPT": Tensor("PROMPT", bad)},
            request(PROMPT=["a", "b"], STEPS=[1, 1], HEIGHT=[64, 128]),
        ]
    )
    assert responses[0].error is None
    assert "--steps is 0" in responses[1].error.message
    assert "PROMPT is no UTF-8" in responses[2].error.message
    assert "of one size" in responses[3].error.message


def test_the_configuration_names_the_models_inputs():
    """Every input is there once, and all but the prompt are optional."""
    text = config(REQUEST)
    lines = [line for line in text.splitlines() if "data_type" in line]
    assert len(lines) == len(INPUTS) + 2
    assert ["optional" in line for line in lines] == [False] + [True] * 7 + [False] * 2
    assert "max_batch_size: 3\n" in text
    assert "max_queue_delay_microseconds: 250000 " in text
    assert "kind: KIND_GPU" in text
    assert '"engine" value { string_value: "openvino" }' in text


def test_a_repository_has_all_that_it_needs(repository, bundles):
    files = {str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file()}
    for name in ("config.pbtxt", "README.md", "client.py", "requirements.txt", "1/model.py"):
        assert f"demo/{name}" in files
    source = bundles("one_level")
    for name in ("bundle.json", *source.manifest.files):
        assert (repository / "demo/1/bundle" / name).read_bytes() == source.path(name).read_bytes()


def test_other_models_stay_and_none_is_replaced(repository, bundles, capsys):
    folder = str(bundles("one_level").folder)
    assert main([folder, str(repository), "--name", "other", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"model": str(repository / "other")}
    assert main([folder, str(repository), "--name", "demo"]) == 2
    assert "demo exists" in capsys.readouterr().err
    assert (repository / "demo/config.pbtxt").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--name", "../up"], "is no name of a model"),
        (["--max-batch-size", "0"], "it must be at least 1"),
        (["--queue-delay", "-1"], "is no time of 0 to 60000 ms"),
    ],
)
def test_bad_options_are_refused(bundles, tmp_path, capsys, words, said):
    assert main([str(bundles("one_level").folder), str(tmp_path / "models"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_a_bundle_that_triton_does_not_run_is_refused(bundles, tmp_path):
    bundle = bundles("one_level")
    of_apple = replace(bundle, manifest=replace(bundle.manifest, backend="coreml"))
    with pytest.raises(UsageError, match="is of coreml, which Triton's servers do not run"):
        write_repository(of_apple, tmp_path / "models", REQUEST)
