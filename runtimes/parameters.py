"""What a PNG file says of how its picture was made."""

from typing import Any

from runtimes.bundle.manifest import MANIFEST_NAME
from runtimes.bundle.read import Bundle, sha256
from runtimes.plan import Plan


def parameters_of_picture(prompt: str, negative: str, seed: int) -> dict[str, Any]:
    """What a picture has of its own."""
    return {"prompt": prompt, "negative_prompt": negative, "seed": [seed]}


def parameters_of(bundle: Bundle, plan: Plan) -> dict[str, Any]:
    """What all pictures of a run have in common, and decides how they look."""
    manifest, model = bundle.manifest, bundle.manifest.model
    return {
        "bundle": sha256(bundle.folder / MANIFEST_NAME),
        "model": f"{model.id}@{model.revision}",
        "prior": f"{model.prior_id}@{model.prior_revision}",
        "precision": manifest.precision,
        "guidance": plan.guidance,
        "decoder_guidance": plan.decoder_guidance,
        "timesteps": plan.timesteps,
        "decoder_timesteps": plan.decoder_timesteps,
        "height": plan.sizes.picture[0],
        "width": plan.sizes.picture[1],
    }
