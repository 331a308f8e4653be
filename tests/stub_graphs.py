"""Graphs that are files of the right kind and nothing more."""

import onnx


def stub_graph(text: str) -> bytes:
    """An ONNX file without a node that differs by `text`."""
    graph = onnx.helper.make_graph([], text, [], [])
    opsets = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
