"""What the tests of quantised Core ML packages share."""

import dataclasses

from exporter.options import ExportOptions
from quantization.quantize import Request, quantize
from quantization.recipes import PRESETS
from runtimes.bundle.read import open_bundle
from validation.mil.engine import widened
from validation.mil.program import read_program


def tiny(bundles, target="iOS17", precision="fp16"):
    """A tiny Stage C in a Core ML bundle for one picture size."""
    options = ExportOptions(
        backend="coreml", modules=("stage_c",), deployment_target=target, precision=precision
    )
    return bundles("public", options)


def made(bundle, folder, precision, **exceptions):
    """A bundle in a preset's precision, with exceptions of its denoisers."""
    plan = {
        name: dataclasses.replace(PRESETS[precision][name], **exceptions)
        for name in bundle.manifest.graphs
    }
    quantize(bundle, folder, Request(precision, plan, [], 0, 0))
    return open_bundle(folder, hashes="fresh")


def package(bundle, name="stage_c"):
    return bundle.path(bundle.manifest.graphs[name].file)


def values(path):
    """Every floating constant of a package's functions; of compressed ones, what they stand for."""
    return {
        name: {k: v for k, v in widened(function).constants.items() if not isinstance(v, str)}
        for name, function in read_program(path).items()
    }
