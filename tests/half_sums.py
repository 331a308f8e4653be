"""onnx's reference evaluator with products as ONNX Runtime's fp16 kernels on ARM64 compute them.

Each term is added to an fp16 sum: the kernels' instruction is a fused multiply-add of halves.
"""

import numpy as np
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_conv import Conv as ReferenceConv

HALF, WIDE = np.float16, np.float32


def product(a, b, start=0):
    """(M,K) times (K,N), term by term; a product of halves is exact in fp32."""
    total = np.broadcast_to(HALF(start), (len(a), b.shape[1]))
    a, b = a.astype(WIDE), b.astype(WIDE)
    for k in range(a.shape[1]):
        total = (total + a[:, k : k + 1] * b[k : k + 1]).astype(HALF)
    return total


class MatMul(OpRun):
    def _run(self, a, b):
        if a.dtype != HALF:
            return (np.matmul(a, b),)
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        pairs = [
            np.broadcast_to(x, batch + x.shape[-2:]).reshape(-1, *x.shape[-2:]) for x in (a, b)
        ]
        rows = np.stack([product(x, y) for x, y in zip(*pairs, strict=True)])
        return (rows.reshape(*batch, a.shape[-2], b.shape[-1]),)


class Conv(ReferenceConv):
    def _run(self, x, weight, bias=None, **options):
        if x.dtype != HALF or weight.shape[2:] != (1, 1) or options.get("group", 1) != 1:
            return super()._run(x, weight, bias, **options)
        rows = x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])
        made = product(rows, weight[:, :, 0, 0].T, 0 if bias is None else bias)
        return (made.reshape(len(x), *x.shape[2:], -1).transpose(0, 3, 1, 2),)


def evaluator_with_half_sums(path):
    return ReferenceEvaluator(str(path), new_ops=[MatMul, Conv])
