"""Products with packed integers, MatMulNBits: their weights are as large as their nodes say.

An engine unpacks K x N integers by what a node says of them, and not every release asks first how
many there are.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from runtimes.bundle.protobuf import Message, as_message, as_number, as_text, fields, numbers
from runtimes.bundle.values import MOST_AXES

_BITS, _BLOCKS = (2, 4, 8), (16, 32, 64, 128, 256)
_UINT8 = 2  # TensorProto.DataType

# Field numbers of onnx.proto.
_NODE, _INITIALIZER = 1, 5  # GraphProto
_INPUT, _OP, _ATTRIBUTE = 1, 4, 5  # NodeProto
_ATTRIBUTE_NAME, _INT = 1, 3  # AttributeProto
_DIMS, _TYPE, _TENSOR_NAME = 1, 2, 8  # TensorProto
Held = dict[str, tuple[int, tuple[int, ...]]]  # weights' types and shapes


@dataclass(frozen=True)
class _Product:
    inputs: tuple[str, ...]
    attributes: dict[str, int]


def packed_faults(graph: Message) -> Iterator[str]:
    """What is wrong with the integers and scales of a GraphProto's products."""
    products = list(_products(graph))
    held = _held(graph) if products else {}
    for product in products:
        yield from _faults(product, held)


def _products(graph: Message) -> Iterator[_Product]:
    for number, value in fields(graph):
        node = list(fields(as_message(value))) if number == _NODE else []
        if any(key == _OP and as_text(text) == "MatMulNBits" for key, text in node):
            inputs = tuple(as_text(text) for key, text in node if key == _INPUT)
            attributes = [dict(fields(as_message(a))) for key, a in node if key == _ATTRIBUTE]
            names = [as_text(attribute[_ATTRIBUTE_NAME]) for attribute in attributes]
            if len({*names}) < len(names):
                raise ValueError("an attribute is there twice")
            found = (as_number(attribute.get(_INT, 0)) for attribute in attributes)
            yield _Product(inputs, dict(zip(names, found, strict=True)))


def _held(graph: Message) -> Held:
    found: Held = {}
    for number, value in fields(graph):
        if number == _INITIALIZER:
            name, kind = "", 0
            dims: list[int] = []
            for key, entry in fields(as_message(value)):
                if key == _DIMS:
                    dims += numbers(entry, MOST_AXES)
                elif key == _TYPE:
                    kind = as_number(entry)
                elif key == _TENSOR_NAME:
                    name = as_text(entry)
            if name in found:
                raise ValueError("a weight is there twice")
            found[name] = kind, tuple(dims)
    return found


def _faults(product: _Product, held: Held) -> Iterator[str]:
    said = product.attributes
    inner, outputs, bits, block = (said.get(key, 0) for key in ("K", "N", "bits", "block_size"))
    if bits not in _BITS or block not in _BLOCKS:
        yield f"a product has integers of {bits} bits in blocks of {block}"
        return
    if len(product.inputs) < 3 or any(product.inputs[3:5]):
        yield "a product has other inputs than integers and scales"  # points of zero, an order
        return
    blocks = -(-inner // block)
    integers, scales = product.inputs[1:3]
    expected = (_UINT8, (outputs, blocks, block * bits // 8))
    if not inner or not outputs or held.get(integers) != expected:
        yield f"{ascii(integers)[:60]} has not the shape that its product says"
    elif math.prod(held.get(scales, (0, (0,)))[1]) != outputs * blocks:
        yield f"{ascii(scales)[:60]} has not a scale for every block of its product"
