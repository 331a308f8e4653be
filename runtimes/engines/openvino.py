"""OpenVINO, on IR or ONNX graphs, compiled for the shapes that are fed."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from runtimes.bundle.graph_files import real_files
from runtimes.console import imported
from runtimes.engines.base import (
    Engine,
    Execution,
    Feeds,
    Footprint,
    GraphFile,
    Placement,
    Tensors,
    check_inputs,
)
from runtimes.engines.openvino_cache import check_folder, load, store
from runtimes.errors import RunError, UsageError, one_line

PRECISIONS = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}
NAMES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
PRODUCTS = ("Convolution", "FullyConnected", "MatMul")  # in compiled graphs
# Activations in front of integer weights are rounded to int8 in groups of this size, in f32 too
# (8e-3 off in a condition graph); 0 leaves them as they are.
GROUPS = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
Shapes = dict[str, tuple[int, ...]]
# Beside the mapped file, whose pages the system takes back. fp16 is widened and kept, int4's
# convolutions are widened. For f32 only fp32 was measured: the rest is bf16's and what is wider.
FOOTPRINTS = {
    "f32": Footprint(
        {
            "fp32": 1.1,
            "fp16": 4.0,
            "fp16-weights": 4.0,
            "int8": 1.4,
            "int8-dynamic": 1.4,
            "int8-weights": 1.9,
            "int4-weights": 6.8,
            "mixed-bits": 6.8,
        },
        positions=0.65,
        pairs=0.65,
    ),
    "bf16": Footprint(
        {
            "fp32": 0.7,
            "fp16": 3.2,
            "fp16-weights": 3.2,
            "int8": 1.4,
            "int8-dynamic": 1.4,
            "int8-weights": 1.6,
            "int4-weights": 6.8,
            "mixed-bits": 6.8,
        },
        positions=0.35,
        pairs=0.35,
    ),
}


# OpenVINO keeps f16 in as many bytes as bf16.
FOOTPRINTS["f16"] = FOOTPRINTS["bf16"]


def open_graph(file: GraphFile, execution: Execution) -> Engine:
    """A graph, which is read and compiled at its first run."""
    return OpenVinoEngine(file, execution)


class OpenVinoEngine:
    """One graph. It is compiled for the shapes of its first run, and again when they change.

    Fixed shapes run up to twice as fast as open ones on a CPU (docs/performance.md) and are
    all that an NPU takes; a picture size is known before its first step anyway.
    """

    def __init__(self, file: GraphFile, execution: Execution) -> None:
        self._ov = import_openvino()
        self._core = self._ov.Core()
        self._file, self._execution = file, execution
        self._device = execution.device.upper()
        self._inputs = {tensor.name for tensor in file.graph.inputs}
        self._outputs = [tensor.name for tensor in file.graph.outputs]
        self._shapes: Shapes = {}
        self._compiled: Any = None
        self._cache_notes: tuple[str, ...] = ()
        self.load_seconds = 0.0

    @property
    def placement(self) -> Placement:
        # Its version has the commit behind a dash.
        version = f"OpenVINO {self._ov.__version__.split('-')[0]}"
        if self._compiled is None:
            return Placement(version, self._device, self._execution.precision or "default")
        devices = self._compiled.get_property("EXECUTION_DEVICES")
        names = "+".join(device.strip("()") for device in devices)
        return Placement(version, names, self._used_precision(), self._notes())

    def run(self, feeds: Feeds) -> Tensors:
        return self.bind({})(feeds)

    def bind(self, constants: Feeds) -> Callable[[Feeds], Tensors]:
        # Copies: the request keeps pointing at them for as long as it lives.
        kept = {name: self._ov.Tensor(np.array(value)) for name, value in constants.items()}
        bound: Any = None
        shapes: Shapes = {}

        def run(feeds: Feeds) -> Tensors:
            nonlocal bound, shapes
            check_inputs(self._inputs, kept, feeds)
            fed = {name: value.shape for name, value in {**constants, **feeds}.items()}
            try:
                if bound is None or fed != shapes:
                    bound, shapes = self._request(fed), fed
                    for name, tensor in kept.items():
                        bound.set_tensor(name, tensor)
                # Into the request's own memory: it need not be told of a new address.
                for name, value in feeds.items():
                    bound.get_tensor(name).data[...] = value
                bound.infer()
                return {name: np.array(bound.get_tensor(name).data) for name in self._outputs}
            except RuntimeError as error:
                raise RunError(f"OpenVINO failed: {one_line(error)}") from error

        return run

    def close(self) -> None:
        self._compiled = None

    def _request(self, shapes: Shapes) -> Any:
        if self._compiled is None or shapes != self._shapes:
            self._compiled = None  # before the next one is made: one compiled graph in memory
            start = time.perf_counter()
            self._compiled = self._compile(shapes)
            self.load_seconds += time.perf_counter() - start
            self._shapes = shapes
            self._check_precision()  # OpenVINO takes a hint as a hint and says nothing
        return self._compiled.create_infer_request()

    def _compile(self, shapes: Shapes) -> Any:
        """From the cache where it holds this very graph, else compiled (and kept there)."""
        config = self._config()
        folder = self._execution.cache
        if folder is None:
            return self._core.compile_model(self._model(shapes), self._device, config)
        # All that the compiled graph depends on, beside OpenVINO's build and the device's name.
        key = (self._file.digest, sorted(shapes.items()), self._device, sorted(config.items()))
        compiled, unread = load(folder, self._core, self._device, key, config)
        unkept = ""
        if compiled is None:
            compiled = self._core.compile_model(self._model(shapes), self._device, config)
            unkept = store(folder, compiled, self._core, self._device, key)
        self._cache_notes = tuple(filter(None, (unread, unkept)))
        return compiled

    def _config(self) -> dict[str, Any]:
        """OpenVINO's options for what is asked for; the rest is the device's default."""
        execution = self._execution
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if execution.precision:
            config["INFERENCE_PRECISION_HINT"] = execution.precision
        if execution.precision == "f32" and GROUPS in self._supported():
            config[GROUPS] = 0
        if execution.threads:
            config["INFERENCE_NUM_THREADS"] = execution.threads
        return config

    def _model(self, shapes: Shapes) -> Any:
        """The graph as OpenVINO reads it, of these input shapes."""
        with real_files(self._file.path, self._file.files) as path:
            model = self._core.read_model(str(path))  # mapped: the files may go
        names = {name for value in (*model.inputs, *model.outputs) for name in value.get_names()}
        missing = {*self._inputs, *self._outputs} - names
        if missing:
            raise RunError(f"{self._file.path} has no tensor {sorted(missing)[0]}; export it again")
        model.reshape({name: list(shape) for name, shape in shapes.items()})
        return model

    def _supported(self) -> set[str]:
        return set(self._core.get_property(self._device, "SUPPORTED_PROPERTIES"))

    def _used_precision(self) -> str:
        try:
            used = self._compiled.get_property("INFERENCE_PRECISION_HINT")
        except RuntimeError:  # AUTO tells which device it took, and that device its default
            if self._execution.precision:
                return self._execution.precision
            device = self._compiled.get_property("EXECUTION_DEVICES")[0].strip("()")
            used = self._core.get_property(device, "INFERENCE_PRECISION_HINT")
        return NAMES.get(used.to_string(), used.get_type_name())

    def _notes(self) -> tuple[str, ...]:
        """How many products of the compiled graph run in int8, and what the cache could not do."""
        if self._file.graph.precision not in ("int8", "int8-dynamic"):
            return self._cache_notes
        nodes = [node.get_rt_info() for node in self._compiled.get_runtime_model().get_ops()]
        products = [info for info in nodes if info["layerType"].astype(str) in PRODUCTS]
        narrow = sum(info["runtimePrecision"].astype(str) in ("u8", "i8") for info in products)
        return (f"{narrow} of {len(products)} products in int8", *self._cache_notes)

    def _check_precision(self) -> None:
        asked, used = self._execution.precision, self._used_precision()
        if asked is not None and used != asked:
            self._compiled = None
            raise UsageError(
                f"--execution-precision {asked}: {self._device} runs this graph in {used} instead; "
                "leave the option out to take the device's best"
            )


def check(execution: Execution) -> None:
    """UsageError when OpenVINO, the device, the precision or the cache folder is not there."""
    core = import_openvino().Core()
    device = execution.device.upper()
    available = list(core.available_devices)
    family = {name.split(".")[0] for name in available}
    if device != "AUTO" and device not in {*available, *family}:
        if device.replace(":", ".") in available:
            raise UsageError(f"--device {execution.device}: OpenVINO writes it with a dot")
        raise UsageError(
            f"--device {execution.device}: OpenVINO finds {', '.join(available).lower()} here, and "
            "auto; a GPU or NPU needs its driver"
        )
    if execution.threads is not None and device != "CPU":
        raise UsageError(f"--threads is for --device cpu: OpenVINO runs on {device.lower()} here")
    if device == "AUTO":
        options = {"--execution-precision": execution.precision, "--cache-dir": execution.cache}
        for option, value in options.items():
            if value is not None:
                raise UsageError(f"{option} needs a device by name, not --device auto")
        return
    _check_capabilities(execution, device, core.get_property(device, "OPTIMIZATION_CAPABILITIES"))
    if execution.cache is not None:
        check_folder(execution.cache)


def footprint(execution: Execution) -> Footprint:
    """What OpenVINO takes of the CPU's memory, in the precision asked for or its default."""
    core = import_openvino().Core()
    default = core.get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name()
    used = execution.precision or default
    if used not in FOOTPRINTS:
        raise RunError(
            f"OpenVINO computes in {used} here, whose need of memory was not measured; run with "
            "--no-memory-check"
        )
    return FOOTPRINTS[used]


def _check_capabilities(execution: Execution, device: str, has: list[str]) -> None:
    asked = execution.precision
    known = [name for name, capability in PRECISIONS.items() if capability in has]
    if asked is not None and asked not in known:
        raise UsageError(f"--execution-precision {asked}: this {device} has {', '.join(known)}")
    if "f32" not in known:
        raise UsageError(
            f"--device {execution.device}: the condition graphs run in f32, which this {device} "
            f"does not have (it has {', '.join(known)})"
        )
    if execution.cache is not None and "EXPORT_IMPORT" not in has:
        raise UsageError(f"--cache-dir: OpenVINO cannot keep the compiled graphs of this {device}")


def import_openvino() -> Any:
    """openvino; UsageError when it is not installed."""
    return imported("openvino", "openvino")
