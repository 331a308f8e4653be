"""The tables of a LiteRT model (.tflite, TFL3), as in the schema that LiteRT 2.3 ships.

What a model of ours never holds is '-': it is refused where it is there.
"""

from runtimes.bundle.flatbuffer import Schema

_FUSED = ("fused_activation_function", "b")
_PADDING = (("padding", "b"), ("stride_w", "i"), ("stride_h", "i"))
_DILATION = (("dilation_w_factor", "i"), ("dilation_h_factor", "i"))
_SUM = (_FUSED, ("pot_scale_int16", "?"))
# Options of operators, by their numbers in BuiltinOptions.
_OPTIONS: dict[int, tuple[str, tuple[tuple[str, str], ...]]] = {
    1: ("Conv2D", (*_PADDING, _FUSED, *_DILATION, ("quantized_bias_type", "b"))),
    2: ("DepthwiseConv2D", (*_PADDING, ("depth_multiplier", "i"), _FUSED, *_DILATION)),
    8: (
        "FullyConnected",
        (
            *(_FUSED, ("weights_format", "b"), ("keep_num_dims", "?")),
            *(("asymmetric_quantize_inputs", "?"), ("quantized_bias_type", "b")),
            ("quant_spec", "-"),
        ),
    ),
    9: ("Softmax", (("beta", "f"),)),
    10: ("Concatenation", (("axis", "i"), _FUSED)),
    11: ("Add", _SUM),
    21: ("Mul", (_FUSED,)),
    22: ("Pad", ()),
    27: ("Reducer", (("keep_dims", "?"),)),
    28: ("Sub", _SUM),
    29: ("Div", (_FUSED,)),
    38: ("Dequantize", ()),
    47: ("Select", ()),
    49: ("TransposeConv", (*_PADDING, _FUSED, ("quantized_bias_type", "b"))),
    75: ("LeakyRelu", (("alpha", "f"),)),
    98: ("SelectV2", ()),
    101: (
        "BatchMatMul",
        (("adj_x", "?"), ("adj_y", "?"), ("asymmetric_quantize_inputs", "?")),
    ),
    116: ("Gelu", (("approximate", "?"),)),
}
_TENSOR = (
    ("shape", "[i]"),
    ("type", "b"),
    ("buffer", "I"),
    ("name", "text"),
    ("quantization", "QuantizationParameters"),
    ("is_variable", "?"),
    ("sparsity", "-"),
    ("shape_signature", "-"),  # shapes that may change
    ("has_rank", "?"),
    ("variant_tensors", "-"),
    ("external_buffer", "-"),  # data outside the file
)
_OPERATOR = (
    ("opcode_index", "I"),
    ("inputs", "[i]"),
    ("outputs", "[i]"),
    ("builtin_options", "|BuiltinOptions"),
    ("custom_options", "-"),
    ("custom_options_format", "b"),
    ("mutating_variable_inputs", "-"),
    ("intermediates", "-"),
    ("large_custom_options_offset", "-"),
    ("large_custom_options_size", "-"),
    ("builtin_options_2_type", "-"),
    ("builtin_options_2", "-"),
    ("debug_metadata_index", "i"),
)
MODEL = Schema(
    tables={
        "Model": (
            ("version", "I"),
            ("operator_codes", "[OperatorCode]"),
            ("subgraphs", "[SubGraph]"),
            ("description", "text"),
            ("buffers", "[Buffer]"),
            ("metadata_buffer", "[i]"),
            ("metadata", "[Metadata]"),
            ("signature_defs", "[SignatureDef]"),
            ("external_buffer_groups", "-"),
            ("external_buffers", "-"),
        ),
        "OperatorCode": (
            ("deprecated_builtin_code", "b"),
            ("custom_code", "-"),
            ("version", "i"),
            ("builtin_code", "i"),
        ),
        "SubGraph": (
            ("tensors", "[Tensor]"),
            ("inputs", "[i]"),
            ("outputs", "[i]"),
            ("operators", "[Operator]"),
            ("name", "text"),
            ("debug_metadata_index", "i"),
        ),
        "Tensor": _TENSOR,
        "QuantizationParameters": (
            ("min", "[f]"),
            ("max", "[f]"),
            ("scale", "[f]"),
            ("zero_point", "[q]"),
            ("details_type", "-"),
            ("details", "-"),
            ("quantized_dimension", "i"),
        ),
        "Operator": _OPERATOR,
        "Buffer": (("data", "[B]"), ("offset", "Q"), ("size", "Q")),
        "Metadata": (("name", "text"), ("buffer", "I")),
        "SignatureDef": (
            ("inputs", "[TensorMap]"),
            ("outputs", "[TensorMap]"),
            ("signature_key", "text"),
            ("deprecated_tag", "text"),
            ("subgraph_index", "I"),
        ),
        "TensorMap": (("name", "text"), ("tensor_index", "I")),
        **dict(_OPTIONS.values()),
    },
    unions={"BuiltinOptions": {number: name for number, (name, _) in _OPTIONS.items()}},
    root="Model",
    identifier=b"TFL3",
)
