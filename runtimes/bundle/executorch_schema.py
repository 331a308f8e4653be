"""The tables of an ExecuTorch program (.pte, ET12) and of XNNPACK's graphs inside (XN01).

As in the schemas that ExecuTorch 1.5 ships (program.fbs, backends/xnnpack/serialization). What a
program of ours never holds is '-': it is refused where it is there.
"""

from runtimes.bundle.flatbuffer import Schema

_TENSOR = (
    ("scalar_type", "b"),
    ("storage_offset", "i"),
    ("sizes", "[i]"),
    ("dim_order", "[B]"),
    ("requires_grad", "?"),
    ("data_buffer_idx", "I"),
    ("allocation_info", "AllocationDetails"),
    ("layout", "b"),
    ("shape_dynamism", "b"),
    ("extra_tensor_info", "-"),  # data outside the file, or on another device
)
_DELEGATE = (
    ("id", "text"),
    ("processed", "BackendDelegateDataReference"),
    ("compile_specs", "[CompileSpec]"),
)
_PLAN = (
    ("name", "text"),
    ("container_meta_type", "ContainerMetadata"),
    ("values", "[EValue]"),
    ("inputs", "[i]"),
    ("outputs", "[i]"),
    ("chains", "[Chain]"),
    ("operators", "[Operator]"),
    ("delegates", "[BackendDelegate]"),
    ("non_const_buffer_sizes", "[q]"),
    ("non_const_buffer_device", "-"),
)
_PROGRAM = (
    ("version", "I"),
    ("execution_plan", "[ExecutionPlan]"),
    ("constant_buffer", "[Buffer]"),
    ("backend_delegate_data", "[BackendDelegateInlineData]"),
    ("segments", "[DataSegment]"),
    ("constant_segment", "SubsegmentOffsets"),
    ("mutable_data_segments", "[SubsegmentOffsets]"),
    ("named_data", "[NamedData]"),
)
PROGRAM = Schema(
    tables={
        "Program": _PROGRAM,
        "ExecutionPlan": _PLAN,
        "ContainerMetadata": (("encoded_inp_str", "text"), ("encoded_out_str", "text")),
        "EValue": (("val", "|KernelTypes"),),
        "Null": (),
        "Int": (("int_val", "q"),),
        "Bool": (("bool_val", "?"),),
        "Double": (("double_val", "d"),),
        "Tensor": _TENSOR,
        "String": (("string_val", "text"),),
        "IntList": (("items", "[q]"),),
        "DoubleList": (("items", "[d]"),),
        "BoolList": (("items", "[?]"),),
        "TensorList": (("items", "[i]"),),
        "OptionalTensorList": (("items", "[i]"),),
        "AllocationDetails": (
            ("memory_id", "I"),
            ("memory_offset_low", "I"),
            ("memory_offset_high", "I"),
        ),
        "Chain": (
            ("inputs", "[i]"),
            ("outputs", "[i]"),
            ("instructions", "[Instruction]"),
            ("stacktrace", "-"),
        ),
        "Instruction": (("instr_args", "|InstructionArguments"),),
        "KernelCall": (("op_index", "i"), ("args", "[i]")),
        "DelegateCall": (("delegate_index", "i"), ("args", "[i]")),
        "Operator": (("name", "text"), ("overload", "text")),
        "BackendDelegate": _DELEGATE,
        "BackendDelegateDataReference": (("location", "b"), ("index", "I")),
        "CompileSpec": (("key", "text"), ("value", "[B]")),
        "Buffer": (("storage", "[B]"),),
        "BackendDelegateInlineData": (("data", "[B]"),),
        "DataSegment": (("offset", "Q"), ("size", "Q")),
        "SubsegmentOffsets": (("segment_index", "I"), ("offsets", "[Q]")),
        "NamedData": (("key", "text"), ("segment_index", "I")),
    },
    unions={
        "KernelTypes": {
            **{1: "Null", 2: "Int", 3: "Bool", 4: "Double", 5: "Tensor", 6: "String"},
            **{7: "IntList", 8: "DoubleList", 9: "BoolList"},
            **{10: "TensorList", 11: "OptionalTensorList"},
        },
        # Without the instructions that move values, free them, or jump: a program runs to its end.
        "InstructionArguments": {1: "KernelCall", 2: "DelegateCall"},
    },
    root="Program",
    identifier=b"ET12",
)

_ONE = (("input_id", "I"), ("output_id", "I"), ("flags", "I"))
_TWO = (("input1_id", "I"), ("input2_id", "I"), ("output_id", "I"), ("flags", "I"))
_CONVOLUTION = (
    *((f"padding_{side}", "I") for side in ("top", "right", "bottom", "left")),
    *((f"{what}_{axis}", "I") for what in ("kernel", "subsampling", "dilation")
      for axis in ("height", "width")),
    *((name, "I") for name in ("group_input_channels", "group_output_channels", "groups")),
    *((f"adjustment_{axis}", "I") for axis in ("height", "width")),
    *((name, "I") for name in ("input1_id", "filter_id", "bias_id", "output_id", "flags")),
)  # fmt: skip
_PRODUCT = (
    *((f"{name}_id", "I") for name in ("input1", "filter", "bias", "output")),
    ("flags", "I"),
)
_PADDING = (
    *(("pre_paddings", "[I]"), ("post_paddings", "[I]"), ("padding_value", "f")),
    *_ONE,
)
_CONCATENATION = (
    ("axis", "I"),
    *((f"input{number}_id", "I") for number in (1, 2, 3, 4)),
    *(("output_id", "I"), ("flags", "I"), ("input5_id", "I")),
)
# The nodes that compute, by their numbers in XNodeUnion; no resizing, pooling or the like.
_NODES: dict[int, tuple[str, tuple[tuple[str, str], ...]]] = {
    1: ("Add", _TWO),
    2: ("FullyConnected", _PRODUCT),
    3: ("Softmax", _ONE),
    4: ("Sigmoid", _ONE),
    5: ("StaticTranspose", (("num_dims", "I"), ("perm", "[I]"), *_ONE)),
    6: ("Clamp", _ONE),
    7: ("Conv2d", _CONVOLUTION),
    8: ("Div", _TWO),
    10: ("StaticConstantPad", _PADDING),
    12: ("Minimum", _TWO),
    13: ("DepthwiseConv2d", _CONVOLUTION),
    15: ("Multiply", _TWO),
    16: ("Subtract", _TWO),
    17: ("Floor", _ONE),
    18: ("Convert", _ONE),
    19: ("GlobalAvgPooling2d", _ONE),
    20: ("StaticReshape", (("num_dims", "I"), ("new_shape", "[I]"), *_ONE)),
    22: ("SquareRoot", _ONE),
    25: ("LeakyReLU", (("negative_slope", "f"), *_ONE)),
    26: ("Maximum", _TWO),
    27: ("Negate", _ONE),
    28: ("Square", _ONE),
    30: ("Abs", _ONE),
    32: ("Concatenate2", _CONCATENATION),
    33: ("Concatenate3", _CONCATENATION),
    34: ("Concatenate4", _CONCATENATION),
    35: ("StaticSlice", (("num_dims", "I"), ("offsets", "[I]"), ("sizes", "[I]"), *_ONE)),
    37: ("BatchMatrixMultiply", _TWO),
    38: ("Concatenate5", _CONCATENATION),
    39: ("ConvTranspose2d", _CONVOLUTION),
    40: ("ReciprocalSquareRoot", _ONE),
    41: ("Log", _ONE),
    42: ("Gelu", _ONE),
    43: ("Tanh", _ONE),
    44: ("Exp", _ONE),
    46: ("Copy", _ONE),
}
XNNPACK = Schema(
    tables={
        "XNNGraph": (
            ("version", "text"),
            ("xnodes", "[XNode]"),
            ("xvalues", "[XValue]"),
            ("num_externs", "I"),
            ("input_ids", "[I]"),
            ("output_ids", "[I]"),
            ("constant_buffer", "-"),
            ("mem_buffer_sizes", "-"),
            ("constant_data", "[ConstantDataOffset]"),
        ),
        "XNode": (
            ("xnode_union", "|XNodeUnion"),
            ("debug_handle", "I"),
            ("output_min_max", "OutputMinMax"),
        ),
        "OutputMinMax": (("output_min", "f"), ("output_max", "f")),
        "XValue": (("xvalue_union", "|XValueUnion"),),
        "TensorValue": (
            ("datatype", "h"),
            ("num_dims", "I"),
            ("dims", "[I]"),
            ("constant_buffer_idx", "I"),
            ("external_id", "I"),
            ("flags", "I"),
            ("id_out", "I"),
        ),
        "QuantizedTensorValue": (
            ("tensor_value", "TensorValue"),
            ("quant_params", "|QuantParams"),
        ),
        "PerChannelQuant": (
            ("scale", "[f]"),
            ("channel_dim", "i"),
            ("scale_buffer_idx", "I"),
            ("num_scales", "I"),
        ),
        "PerTokenDynamicQuant": (("num_nonbatch_dims", "i"),),
        "ConstantDataOffset": (("offset", "Q"), ("size", "Q"), ("named_key", "text")),
        **dict(_NODES.values()),
    },
    unions={
        "XNodeUnion": {number: name for number, (name, fields) in _NODES.items()},
        "XValueUnion": {1: "TensorValue", 2: "QuantizedTensorValue"},
        # Weights, and what is rounded as it comes; no scales that are calibrated, or of groups.
        "QuantParams": {1: "PerChannelQuant", 3: "PerTokenDynamicQuant"},
    },
    root="XNNGraph",
    identifier=b"XN01",
)
