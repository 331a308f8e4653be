"""8-bit weights in LiteRT models, by ai-edge-quantizer: a scale per output channel.

Nothing is calibrated. Activations stay fp32, or are rounded to int8 as they come.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from quantization.recipes import Int8Dynamic, IntegerWeights, Recipe
from runtimes.bundle.coreml import quiet
from runtimes.bundle.flatbuffer import Table, read
from runtimes.bundle.litert_schema import MODEL
from runtimes.bundle.litert_trust import OPERATORS, code_of
from runtimes.bundle.manifest import Weight
from runtimes.bundle.untrusted import map_regular
from runtimes.engines.base import Tensors
from runtimes.errors import UsageError

# Which input of an operator is its weight.
_WEIGHT_AT = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "EMBEDDING_LOOKUP": 1,
    "FULLY_CONNECTED": 1,
    "TRANSPOSE_CONV": 1,
}
_INT8, _DEQUANTIZE = 9, "DEQUANTIZE"
# The denoisers' products in their blocks, by what the converter calls their results. The others
# are 3 % of the weights and stay fp32: near the end epsilon magnifies what the last projection
# rounds (24 dB in the worst step by itself), and the mappers' and depthwise ones' share is next.
BLOCKS = ".*Pointwise_(expand|contract|to_q|to_k|to_v|to_out);.*"


def check(source: Path, recipe: Recipe) -> None:
    """UsageError for fewer than eight bits, and for weights in blocks."""
    if isinstance(recipe, IntegerWeights) and (recipe.bits != 8 or recipe.activation_bits == 8):
        raise UsageError(
            f"{recipe.name}: LiteRT has no weights in blocks, and with a scale per channel Stage B "
            "misses the limit; take int8-dynamic"
        )


def weight_names(source: Path) -> Collection[str]:
    """None: the quantiser takes a model whole."""
    return ()


def quantize(
    source: Path, target: Path, recipe: IntegerWeights | Int8Dynamic, feeds: Sequence[Tensors] = ()
) -> list[Weight]:
    """Write a model with its weights as the recipe says; lists every weight, changed or not."""
    dynamic = isinstance(recipe, Int8Dynamic)
    with quiet("ai-edge-quantizer"):
        from ai_edge_quantizer import quantizer
        from ai_edge_quantizer import recipe as recipes
        from ai_edge_quantizer.qtyping import TFLOperationName

        work = quantizer.Quantizer(str(source))
        if dynamic:
            work.add_dynamic_config(BLOCKS, TFLOperationName.CONV_2D, num_bits=8)
        else:
            work.load_quantization_recipe(recipes.weight_only_wi8_afp32())
        work.quantize().export_model(str(target))
    target.chmod(0o644)  # the quantiser makes it a program
    return [_listed(*weight, dynamic=dynamic) for weight in _weights(target)]


def _listed(name: str, kind: int, operator: str, *, dynamic: bool) -> Weight:
    if kind != _INT8:
        return Weight(name, "float32", f"{operator}: it stays exact, or has little to gain")
    # Depthwise ones and embeddings are widened where they are used in either recipe.
    rounded = dynamic and operator in ("CONV_2D", "FULLY_CONNECTED")
    return Weight(name, "int8, dynamic activations" if rounded else "int8 weights, per channel", "")


def _weights(path: Path) -> list[tuple[str, int, str]]:
    """Each weight of a model once: its name, its type's number, and the operator that takes it."""
    model: Table = read(map_regular(path), MODEL)
    (graph,) = model["subgraphs"]
    tensors, made = graph["tensors"], {}
    found: dict[int, tuple[str, int, str]] = {}
    for operator in graph["operators"]:
        code = code_of(model["operator_codes"][operator.get("opcode_index", 0)])
        kind = OPERATORS[code][0]
        if kind == _DEQUANTIZE:
            made[operator["outputs"][0]] = operator["inputs"][0]
        elif kind in _WEIGHT_AT:
            index = operator["inputs"][_WEIGHT_AT[kind]]
            index = made.get(index, index)
            found.setdefault(index, (_name(tensors, index), tensors[index].get("type", 0), kind))
    return list(found.values())


def _name(tensors: list[dict[str, Any]], index: int) -> str:
    """A tensor's name, which need not be the only one so called; at its end the telling part."""
    return f"{index}:{tensors[index].get('name', '')[-400:]}"
