"""The picture side's graphs against their authors' own modules, in PyTorch and on every engine."""

from dataclasses import replace

import picture_nets as nets
import pytest
import torch
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel
from safetensors.torch import save_file

from exporter.checkpoint.configs import StageAConfig
from exporter.checkpoint.find import find_pair
from exporter.checkpoint.open import Checkpoint, Component, open_checkpoint
from exporter.checkpoint.picture_files import PictureFiles
from exporter.dimensions import make_static
from exporter.export import export
from exporter.graphs import GraphPlan, plan_graphs, plan_pictures
from exporter.options import ExportOptions
from runtimes.bundle.manifest import PICTURE_GRAPHS, Graph, PictureSide
from runtimes.bundle.read import Bundle, open_bundle
from runtimes.engines.base import Execution
from runtimes.engines.table import BundleGraphs
from runtimes.tolerances import LIMITS
from validation.parity.metrics import difference

LIMIT = LIMITS["fp32"].graph_error
# Of Stage C's cells, or Stage B's: height and width.
SIDES = ((3, 2), (4, 5))


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return difference(found.numpy(), expected.numpy()).relative


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def opened(folders, tmp_path_factory):
    """A tiny checkpoint with both files, and the modules that the files are of."""

    def get(name: str = "one_level", pictures: PictureFiles | None = None) -> Checkpoint:
        pair = find_pair(*map(str, folders(name)))
        c_latent = open_checkpoint(*pair, None).stage_c.config.c_in
        made = pictures or nets.files(tmp_path_factory.mktemp("pictures"), c_latent)
        return open_checkpoint(*pair, None, made)

    return get


@pytest.fixture(scope="session")
def plans(opened):
    return {plan.name: plan for plan in plan_pictures(opened(), "nchw")}


def module_of(checkpoint: Checkpoint, name: str, layout: str = "nchw") -> torch.nn.Module:
    plan = next(plan for plan in plan_pictures(checkpoint, layout) if plan.name == name)
    with plan.module() as module:
        return module


@pytest.mark.parametrize("affine", [False, True])
def test_an_odd_compressor_equals_torchvisions(opened, tmp_path, affine):
    reference = nets.compressor(8, affine=affine)
    path = nets.save(reference, tmp_path / "c.safetensors", {"strides": nets.ODD_STRIDES})
    checkpoint = opened(pictures=PictureFiles(compressor=path))
    assert checkpoint.compressor is not None
    assert checkpoint.compressor.config.stride == 8
    module = module_of(checkpoint, "compressor")
    for batch, height, width in ((1, 24, 40), (3, 16, 8)):
        image = drawn(batch, 3, height, width)
        assert error(module(image), reference(image)) <= LIMIT / 10


def test_efficientnet_v2_s_equals_torchvisions(opened, tmp_path):
    """The public layout as it may be shipped: in fp16, without metadata, mean and std."""
    reference = nets.v2_s(8).half().float()
    state = {name: value.half() if value.is_floating_point() else value
             for name, value in reference.state_dict().items()}  # fmt: skip
    del state["mean"], state["std"]
    reference.mean, reference.std = nets.MEAN, nets.STD
    save_file(state, tmp_path / "half.safetensors")
    checkpoint = opened(pictures=PictureFiles(compressor=tmp_path / "half.safetensors"))
    assert checkpoint.compressor is not None
    assert checkpoint.compressor.config.stride == 32
    image = drawn(1, 3, 64, 96)
    module = module_of(checkpoint, "compressor")
    assert error(module(image), reference(image)) <= LIMIT
    assert not any(isinstance(each, torch.nn.BatchNorm2d) for each in module.modules())


def test_statistics_matter_to_the_compressor(opened, tmp_path):
    """What is compared above says something: another norm's mean is another embedding."""
    reference = nets.compressor(8)
    path = nets.save(reference, tmp_path / "c.safetensors", {"strides": nets.ODD_STRIDES})
    module = module_of(opened(pictures=PictureFiles(compressor=path)), "compressor")
    for layer in (reference.backbone[0][1], reference.backbone[2][0].block[0][1]):
        kept = layer.running_mean.clone()
        layer.running_mean.zero_()
        assert error(module(drawn(1, 3, 24, 40)), reference(drawn(1, 3, 24, 40))) > 1e-3
        layer.running_mean.copy_(kept)


# Levels, up_down_scale_factor, embed_dim, latent_channels, scale_factor.
AUTOENCODERS = ((2, 2, 24, 4, 0.3764), (1, 4, 18, 5, 1.7), (3, 1, 40, 3, 0.05), (2, 3, 12, 4, 1.0))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("numbers", AUTOENCODERS)
def test_stage_as_encoder_equals_diffusers(opened, tmp_path, numbers, layout):
    levels, factor, width, channels, scale = numbers
    torch.manual_seed(5)
    reference = PaellaVQModel(
        levels=levels, up_down_scale_factor=factor, embed_dim=width, latent_channels=channels,
        scale_factor=scale, bottleneck_blocks=1, num_vq_embeddings=7,
    )  # fmt: skip
    nets.draw_norms(reference)
    for name, parameter in reference.named_parameters():
        if name.endswith("gammas"):
            parameter.normal_(0, 0.5)
    reference.save_pretrained(tmp_path / "vqgan")
    config = StageAConfig(3, 3, factor, levels, 1, width, channels, 7, scale)
    file = tmp_path / "vqgan/diffusion_pytorch_model.safetensors"
    component = Component(tmp_path / "vqgan", config, (file,))
    module = module_of(replace(opened(), stage_a=component), "stage_a_encoder", layout)
    for batch, height, width in ((1, 3, 2), (2, 2, 5)):
        image = drawn(batch, 3, config.scale * height, config.scale * width)
        (expected,) = reference.encode(image, return_dict=False)
        assert error(module(image), expected / scale) <= LIMIT / 5


def test_encoder_and_decoder_are_of_one_space(opened):
    """What the encoder gives is what `stage_a` reads: diffusers' whole autoencoder."""
    checkpoint = opened()
    folder = checkpoint.stage_a.folder
    reference = PaellaVQModel.from_pretrained(folder).eval().requires_grad_(False)
    encoder = module_of(checkpoint, "stage_a_encoder")
    plan = next(p for p in plan_graphs(checkpoint, "nchw", text=True) if p.name == "stage_a")
    image = drawn(1, 3, 24, 16)
    (latents,) = reference.encode(image, return_dict=False)
    (expected,) = reference.decode(latents, return_dict=False)
    with plan.module() as decoder:
        assert error(decoder(encoder(image)), expected.clamp(0, 1)) <= LIMIT


@pytest.mark.parametrize("width", [20, 8])
def test_preview_equals_the_public_layout_to_its_borders(opened, tmp_path, width):
    reference = nets.previewer(8, width)
    reference.blocks[2].weight[0] = 0  # a channel of which the norm keeps its shift alone
    path = nets.save(reference, tmp_path / "p.safetensors")
    module = module_of(opened(pictures=PictureFiles(preview=path)), "preview")
    for batch, sides in ((1, (3, 2)), (2, (1, 1)), (3, (4, 5))):
        latents = torch.randn((batch, 8, *sides), generator=torch.Generator().manual_seed(6))
        expected, found = reference(latents), module(latents)
        assert found.shape == (batch, 3, 8 * sides[0], 8 * sides[1])
        assert (expected > 0).float().mean() > 0.5 and (expected < 1).float().mean() > 0.5
        assert error(found, expected) <= LIMIT / 5
        assert error(found[..., 0, :], expected[..., 0, :]) <= LIMIT / 5


def feeds_of(plan: GraphPlan, sides: tuple[int, int], batch: int) -> dict[str, torch.Tensor]:
    named = {"batch": batch, "height": sides[0], "width": sides[1]}
    (tensor,) = make_static(plan, named).inputs
    return {tensor.name: drawn(*tensor.shape)}  # type: ignore[arg-type]


def check(plan: GraphPlan, engine, limit: float = LIMIT) -> None:
    """An engine's graph at two sizes, a batch of one and of two, against the module."""
    with plan.module() as module:
        for batch, sides in zip((1, 2), SIDES, strict=True):
            feeds = feeds_of(plan, sides, batch)
            found = engine.run({name: value.numpy() for name, value in feeds.items()})
            expected = module(*feeds.values())
            (output,) = plan.outputs
            assert error(torch.from_numpy(found[output.name]), expected) <= limit


@pytest.fixture(scope="session")
def pictures(folders, opened, tmp_path_factory):
    """The bundle of the three graphs alone, in a format."""
    made = {}

    def get(backend: str) -> Bundle:
        if backend not in made:
            files = nets.files(tmp_path_factory.mktemp("files"), 8)
            output = tmp_path_factory.mktemp("bundles") / backend
            options = ExportOptions(backend=backend, modules=PICTURE_GRAPHS, pictures=files)
            export(*find_pair(*map(str, folders("one_level"))), output, options)
            made[backend] = open_bundle(output)
        return made[backend]

    return get


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", PICTURE_GRAPHS)
def test_onnx_graphs_equal_their_modules_at_any_batch_and_size(pictures, plans, name, engine):
    execution = Execution(engine=engine, precision="f32" if engine == "openvino" else None)
    check(plans[name], BundleGraphs(pictures("onnx"), execution).open(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURE_GRAPHS)
def test_openvino_graphs_equal_their_modules(pictures, plans, name):
    source = BundleGraphs(pictures("openvino"), Execution(precision="f32"))
    check(plans[name], source.open(name))


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("compressor", "fp32"),
        *(
            pytest.param(name, precision, marks=pytest.mark.slow)
            for name, precision in (("stage_a_encoder", "fp32"), ("preview", "fp32"))
        ),
        *(pytest.param(name, "fp16", marks=pytest.mark.slow) for name in PICTURE_GRAPHS),
    ],
)
def test_coreml_programs_equal_their_modules(plans, tmp_path, name, precision):
    """As the interpreter runs them, of fixed size."""
    pytest.importorskip("coremltools")
    from exporter.formats.coreml import write_coreml
    from validation.mil.engine import MilEngine

    plan = make_static(plans[name], {"batch": 2, "height": 3, "width": 2})
    with plan.module() as module:
        typed = module.half() if precision == "fp16" else module
        path = write_coreml(plan, typed, tmp_path / name, license="mit", metadata={})
    feeds = feeds_of(plan, (3, 2), 2)
    engine = MilEngine(path, Graph("", precision, plan.inputs, plan.outputs))
    found = engine.run({key: value.numpy() for key, value in feeds.items()})
    with plan.module() as module:
        expected = module(*feeds.values())
    assert error(torch.from_numpy(found[plan.outputs[0].name]), expected) <= (
        LIMITS[precision].graph_error
    )


def test_the_manifest_names_the_pictures_that_the_graphs_take(pictures):
    manifest = pictures("onnx").manifest
    assert list(manifest.graphs) == list(PICTURE_GRAPHS)
    assert manifest.picture_side == PictureSide(compressor_stride=8)
    inputs = {name: graph.inputs[0].shape for name, graph in manifest.graphs.items()}
    assert inputs["compressor"] == ("batch", 3, "8*height", "8*width")
    assert inputs["stage_a_encoder"] == ("batch", 3, "8*height", "8*width")  # three levels
    assert inputs["preview"] == ("batch", 8, "height", "width")
    assert manifest.graphs["preview"].outputs[0].shape == ("batch", 3, "8*height", "8*width")
    assert all(len(graph.activations) == 3 for graph in manifest.graphs.values())
    assert manifest.host is not None and manifest.host.run == ()
