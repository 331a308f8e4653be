"""How the memory of a graph's activations grows with the picture, for hosts to plan with."""

import numpy as np

from exporter.dimensions import make_static
from exporter.graphs import GraphPlan
from exporter.inspection import graph_parameters, peak_bytes
from runtimes.sizes import Sizes


def activations(plan: GraphPlan, default: Sizes) -> tuple[float, ...]:
    """Bytes one row of the batch keeps alive: in any case, per position of `latents`, per pair.

    Counted as fp32 at about half the default sides, at these, and at twice; attention's scores are
    what grows with the square. Empty for graphs without latents.
    """
    if all(tensor.name != "latents" for tensor in plan.inputs):
        return ()
    side = default.stage_c if plan.name == "stage_c" else default.stage_b
    # In steps of what Stage B's levels divide by; a step at least, for the smallest of models.
    steps = max(min(side) // plan.multiple, 2)
    sides = [n * plan.multiple for n in (steps // 2, steps, 2 * steps)]
    positions = [float(side**2) for side in sides]
    counted = [float(_bytes(plan, side, default)) for side in sides]
    powers = np.vander(positions, increasing=True)
    return tuple(max(float(x), 0.0) for x in np.linalg.solve(powers, np.array(counted)))


def _bytes(plan: GraphPlan, side: int, default: Sizes) -> int:
    named = {"batch": 1, "height": side, "width": side}
    named |= {"embedding_height": default.stage_c[0], "embedding_width": default.stage_c[1]}
    return peak_bytes(make_static(plan, named)) - 4 * graph_parameters(plan)
