"""Which checkpoint a bundle is compared with."""

from exporter.sources import DEMO_REVISION, Source, demo_pair, find_pair
from runtimes.errors import UsageError
from runtimes.manifest import Model


def reference_pair(model: Model, reference: str | None, prior: str | None) -> tuple[Source, Source]:
    """Decoder and prior folders: the ones named, or those the bundle was made from.

    Raises UsageError when a bundle was made from a local folder, which it cannot name.
    """
    if reference is not None:
        return find_pair(reference, prior, variant=model.variant or None, flag="--reference")
    if model.revision == DEMO_REVISION:
        return demo_pair()
    if model.revision == "local":
        raise UsageError(
            f"this bundle was made from a local folder named '{model.id}': give it as --reference"
        )
    revisions = (model.revision, model.prior_revision)
    return find_pair(model.id, model.prior_id, revisions, model.variant or None)
