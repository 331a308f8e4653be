"""Which checkpoint a bundle is compared with, and that it can be the one it was made from."""

from exporter.checkpoint.find import Source, demo_pair, find_pair
from exporter.checkpoint.open import Checkpoint
from exporter.graphs import plan_graphs, plan_pictures
from runtimes.bundle.manifest import Manifest, Model, Tensor
from runtimes.bundle.read import Bundle
from runtimes.errors import UsageError


def reference_pair(model: Model, reference: str | None, prior: str | None) -> tuple[Source, Source]:
    """Decoder and prior folders: the ones named, or those the bundle was made from.

    Raises UsageError when a bundle was made from a local folder, which it cannot name, and when
    bundle and reference are both known to be a certain revision, and not the same.
    """
    if reference is not None:
        pair = find_pair(reference, prior, variant=model.variant or None, flag="--reference")
        _check_revision(pair[0], model.id, model.revision, "--reference")
        _check_revision(pair[1], model.prior_id, model.prior_revision, "--prior")
        return pair
    if model.is_demo:
        return demo_pair()
    if model.revision == "local":
        raise UsageError(
            f"this bundle was made from a local folder named '{model.id}': give it as --reference"
        )
    revisions = (model.revision, model.prior_revision)
    return find_pair(model.id, model.prior_id, revisions, model.variant or None)


def check_no_adapters(bundle: Bundle) -> None:
    """UsageError for a bundle with adapters or embeddings, which the reference does not have."""
    if bundle.manifest.adapters:
        names = ", ".join(adapter.id for adapter in bundle.manifest.adapters)
        raise UsageError(
            f"{bundle.folder} was exported with adapters or embeddings ({names}), and the "
            "reference here is the checkpoint without them: compare with --golden, which has them"
        )


def check_architecture(checkpoint: Checkpoint, manifest: Manifest) -> None:
    """UsageError when the graphs of a checkpoint have other tensors than the bundle's."""
    text = manifest.text_graphs["stage_b"] is not None
    plans = [*plan_graphs(checkpoint, "nchw", text=text), *plan_pictures(checkpoint, "nchw")]
    by_name = {plan.name: plan for plan in plans}
    for name, graph in manifest.graphs.items():
        if name not in by_name:
            raise UsageError(
                f"the reference {checkpoint.decoder_source.id} has no file of {name}, which an "
                "option of the bundle's export named: compare with --golden, which has it"
            )
        plan = by_name[name]
        wanted = {tensor.name: tensor for tensor in (*plan.inputs, *plan.outputs)}
        held = {tensor.name: tensor for tensor in (*graph.inputs, *graph.outputs)}
        for tensor in wanted.keys() | held.keys():
            if not _alike(wanted.get(tensor), held.get(tensor)):
                raise UsageError(
                    f"the reference {checkpoint.decoder_source.id} is not the model of this "
                    f"bundle, {manifest.model.id}: {tensor} of {name} has another shape there"
                )


def _check_revision(source: Source, name: str, revision: str, flag: str) -> None:
    """A folder that is no snapshot of a hub cache is taken at its user's word."""
    if "local" in (source.revision, revision):
        return
    if (source.id, source.revision) != (name, revision):
        raise UsageError(
            f"{flag} {source.id} is revision {source.revision}, the bundle was made from {name} "
            f"{revision}; leave {flag} out to compare with that"
        )


def _alike(first: Tensor | None, second: Tensor | None) -> bool:
    """The same number of dimensions, and the same size wherever both are fixed."""
    if first is None or second is None or len(first.shape) != len(second.shape):
        return False
    pairs = zip(first.shape, second.shape, strict=True)
    return all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))
