"""How many rows each graph gets: said in one place, seen in real runs."""

from collections.abc import Mapping

import numpy as np
import pytest

from exporter.dimensions import named_sizes
from exporter.graphs import plan_graphs
from exporter.sampling import sampling
from runtimes import Options, Pipeline
from runtimes.plan import batch_rows
from runtimes.sizes import sizes


def rows_in_a_run(bundle, pictures: int, options: Options) -> Mapping[str, int]:
    """The first dimension of what every graph gave in a real run; a step's is its denoiser's."""
    rows: dict[str, int] = {}

    def keep(name, tensors):
        graph = name.partition("/")[0]
        batch = tensors.get("epsilon", next(iter(tensors.values())))
        if not name.endswith("/start"):
            rows[graph] = len(np.asarray(batch))

    with Pipeline.open(bundle) as pipeline:
        pipeline(["a ring"] * pictures, options=options, on_tensors=keep)
    return rows


@pytest.mark.parametrize(
    ("pictures", "guidance", "decoder_guidance"), [(1, 4.0, 0.0), (2, 1.0, 0.0), (2, 3.0, 1.5)]
)
def test_the_table_says_what_a_run_does(bundles, pictures, guidance, decoder_guidance):
    bundle = bundles("one_level")
    options = Options(
        steps=1, decoder_steps=1, guidance=guidance, decoder_guidance=decoder_guidance
    )
    expected = {
        name: batch_rows(name, pictures, guidance, decoder_guidance)
        for name in bundle.manifest.graphs
    }
    assert rows_in_a_run(bundle, pictures, options) == expected
    assert expected["text_encoder"] == expected["decoder_text_encoder"] == 2 * pictures


def test_static_graphs_are_made_for_those_rows(bundles, checkpoint):
    opened = checkpoint("one_level")
    constants = sampling(opened, 128, 128)
    default = sizes(128, 128, constants)
    rows = rows_in_a_run(bundles("one_level"), 1, Options(steps=1, decoder_steps=1))
    for plan in plan_graphs(opened, "nchw", text=True):
        assert named_sizes(plan, 1, constants, default)["batch"] == rows[plan.name]
