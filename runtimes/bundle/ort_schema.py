"""The tables of ONNX Runtime's own format of graphs (ORTM), as in ort.fbs of ONNX Runtime 1.32.

What a graph of ours never holds is '-': it is refused where it is there. What is '~' is not
followed, as ONNX Runtime verifies where all of it lies before it reads any: names, types of values
and types of kernels, for which nobody here asks; of the rest, whether it is there.
"""

from runtimes.bundle.flatbuffer import Schema

_ATTRIBUTE = (
    ("name", "~"),
    ("doc_string", "~"),
    ("type", "~"),
    ("f", "~"),
    ("i", "~"),
    ("s", "~"),
    ("t", "Tensor"),
    ("g", "~"),  # a graph
    ("floats", "~"),
    ("ints", "~"),
    ("strings", "~"),
    ("tensors", "[Tensor]"),
    ("graphs", "[~]"),
)
_NODE = (
    ("name", "~"),
    ("doc_string", "~"),
    ("domain", "text"),
    ("since_version", "i"),
    ("index", "I"),
    ("op_type", "text"),
    ("type", "i"),
    ("execution_provider_type", "text"),
    ("inputs", "~"),
    ("outputs", "~"),
    ("attributes", "[Attribute]"),
    ("input_arg_counts", "~"),
    ("implicit_inputs", "[-]"),  # of a graph inside
)
_GRAPH = (
    ("initializers", "[Tensor]"),
    ("node_args", "~"),
    ("nodes", "[Node]"),
    ("max_node_index", "I"),
    ("node_edges", "[NodeEdge]"),
    ("inputs", "~"),
    ("outputs", "~"),
    ("sparse_initializers", "[~]"),
    ("runtime_optimizations", "RuntimeOptimizations"),
)
_MODEL = (
    ("ir_version", "q"),
    ("opset_import", "[OperatorSetId]"),
    ("producer_name", "~"),
    ("producer_version", "~"),
    ("domain", "text"),
    ("model_version", "q"),
    ("doc_string", "~"),
    ("graph", "Graph"),
    ("graph_doc_string", "~"),
    ("metadata_props", "~"),
)
SESSION = Schema(
    tables={
        "InferenceSession": (
            ("ort_version", "~"),
            ("model", "Model"),
            ("session_state", "-"),
            ("kernel_type_str_resolver", "~"),
        ),
        "Model": _MODEL,
        "OperatorSetId": (("domain", "text"), ("version", "q")),
        "Graph": _GRAPH,
        "RuntimeOptimizations": (("records", "[~]"),),  # which would be replayed
        "Node": _NODE,
        # Ends of edges: a node, and which of its outputs and inputs.
        "NodeEdge": (
            ("node_index", "I"),
            ("input_edges", "[(Iii)]"),
            ("output_edges", "[(Iii)]"),
        ),
        "Attribute": _ATTRIBUTE,
        "Tensor": (
            ("name", "text"),
            ("doc_string", "~"),
            ("dims", "[q]"),
            ("data_type", "i"),
            ("raw_data", "[B]"),
            ("string_data", "[~]"),
            ("external_data_offset", "q"),
        ),
    },
    unions={},
    root="InferenceSession",
    identifier=b"ORTM",
    most=400_000,
)
