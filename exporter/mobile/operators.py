"""What a build of ONNX Runtime has to have for these graphs, and nothing else.

`build.sh --include_ops_by_config FILE --enable_reduced_operator_type_support` reads it.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

_HEADER = (
    "# Operators, and the types of their tensors, of the .ort files beside this one: for a build\n"
    "# of ONNX Runtime by --include_ops_by_config and --enable_reduced_operator_type_support.\n"
)


def write_operators(graphs: Sequence[Path], target: Path, scratch: Path) -> None:
    """Write the operators of graphs in ORT format, with the types that each is used for."""
    from onnxruntime.tools.ort_format_model import create_config_from_models

    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
    listed = scratch / "operators.config"
    create_config_from_models(graphs, listed, enable_type_reduction=True)
    lines = listed.read_text(encoding="utf-8").splitlines(keepends=True)
    # Its comments have the paths of the files on this machine.
    target.write_text(
        _HEADER + "".join(line for line in lines if not line.startswith("#")), encoding="utf-8"
    )
