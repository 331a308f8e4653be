"""Graphs that are files of the right kind and nothing more."""

import onnx

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}


def stub_graph(text: str, backend: str = "onnx") -> bytes:
    """A graph's file without a node that differs by `text`."""
    if backend == "openvino":
        return f'<?xml version="1.0"?><net name="{text}" version="11"></net>'.encode()
    graph = onnx.helper.make_graph([], text, [], [])
    opsets = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
