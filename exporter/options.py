"""What to export, as it was asked for, and the checks that need no checkpoint."""

from dataclasses import dataclass

from exporter.checkpoint.embeddings import EmbeddingFile
from exporter.checkpoint.lora_file import LoraFile
from exporter.checkpoint.picture_files import IN_FOLDER, PictureFiles
from exporter.formats.openvino_tokenizer import check_openvino_tokenizers
from exporter.formats.table import BACKENDS
from exporter.golden import GoldenSteps
from runtimes.bundle.manifest import ALL_GRAPHS
from runtimes.errors import UsageError

MOST_PICTURES = 100  # that a linear preview is fitted to: PyTorch makes them one by one


@dataclass(frozen=True)
class ExportOptions:
    """What to export, as the command line says it.

    None takes the checkpoint's default, for `precision` the backend's. `sizes` are further picture
    sizes (height, width) for Core ML, whose graphs have fixed ones. `fused_attention`: ONNX, an
    attention block's products and softmax as one operator. `golden_steps` are those of the
    recorded run. `resume` goes on with what an earlier export of the same output has finished.
    `text`: Stage B's. `islands`: Core ML in fp16, what stays fp32 ('safe', the default, 'least').
    `modules`: None for every graph that the checkpoint has, Stage A's encoder where there is a
    compressor. `pictures` are the picture side's files; `preview_pictures` how many pictures the
    preview without a graph is fitted to.
    """

    backend: str = "onnx"
    precision: str | None = None
    text: bool = True
    height: int | None = None
    width: int | None = None
    static: bool = False
    batch_size: int = 1
    modules: tuple[str, ...] | None = None
    pictures: PictureFiles = IN_FOLDER
    golden: bool = True
    golden_steps: GoldenSteps | None = None
    preview_pictures: int = 1
    overwrite: bool = False
    variant: str | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    deployment_target: str | None = None
    openvino_tokenizer: bool = False
    fused_attention: bool = False
    loras: tuple[LoraFile, ...] = ()
    embeddings: tuple[EmbeddingFile, ...] = ()
    islands: str | None = None
    resume: bool = False


def check_options(options: ExportOptions) -> None:
    """Check options against each other and their backend; UsageError names the one that is wrong.

    Cheap, and done before a checkpoint is fetched.
    """
    if options.backend not in BACKENDS:
        raise UsageError(f"--backend {options.backend}: there are {', '.join(BACKENDS)}")
    backend = BACKENDS[options.backend]
    if options.precision is not None and options.precision not in backend.precisions:
        raise UsageError(
            f"--precision {options.precision}: {options.backend} is exported in "
            f"{' or '.join(backend.precisions)}"
        )
    unknown = [name for name in options.modules or () if name not in ALL_GRAPHS]
    if unknown:
        known = ", ".join(ALL_GRAPHS)
        raise UsageError(f"--modules: unknown graph '{unknown[0]}'; there are {known}")
    if options.batch_size != 1 and not (options.static or backend.always_static):
        raise UsageError("--batch-size fixes the batch of --static graphs: give --static too")
    if options.batch_size < 1:
        raise UsageError(f"--batch-size is {options.batch_size}; it must be at least 1")
    if not 1 <= options.preview_pictures <= MOST_PICTURES:
        raise UsageError(
            f"--preview-pictures is {options.preview_pictures}; it is from 1 to {MOST_PICTURES}"
        )
    if options.preview_pictures != 1 and not options.golden:
        raise UsageError("--preview-pictures and --no-golden exclude each other")
    if options.golden_steps is not None and not options.golden:
        raise UsageError("--golden-steps and --no-golden exclude each other")
    if options.fused_attention and options.backend != "onnx":
        raise UsageError(
            "--fused-attention is for --backend onnx; the other formats have no use for it"
        )
    if options.openvino_tokenizer and options.backend != "openvino":
        raise UsageError("--openvino-tokenizer is for --backend openvino")
    if options.openvino_tokenizer:
        check_openvino_tokenizers()
    deployment_target(options)
    if options.islands is not None and options.precision == "fp32":
        raise UsageError(
            "--islands says what stays fp32 in fp16 graphs: leave --precision fp32 out"
        )


def deployment_target(options: ExportOptions) -> str:
    """The oldest system Core ML packages are for, '' for other backends.

    Raises UsageError for a target that does not exist or does not take the sizes asked for, and
    for Core ML's options with another backend.
    """
    if options.backend != "coreml":
        coreml_only = {
            "--sizes": options.sizes,
            "--deployment-target": options.deployment_target,
            "--islands": options.islands,
        }
        for flag, value in coreml_only.items():
            if value:
                raise UsageError(f"{flag} is for --backend coreml")
        return ""
    from exporter.formats.coreml import DEFAULT_TARGET, FUNCTIONS_TARGETS, check_target

    default = FUNCTIONS_TARGETS[0] if options.sizes else DEFAULT_TARGET
    target = options.deployment_target or default
    check_target(target, sizes=1 + len(set(options.sizes)))
    return target
