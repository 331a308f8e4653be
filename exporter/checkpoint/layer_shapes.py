"""What the tensors of a file without a config say of its layers: names and shapes, each checked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from exporter.checkpoint import ranges as r
from exporter.checkpoint.ranges import checked
from runtimes.errors import UsageError

Shape = tuple[int, ...]
# What training keeps beside a batch norm's statistics; no graph needs it.
UNUSED_NORM_WEIGHTS = ("*.num_batches_tracked",)


@dataclass(frozen=True)
class LayerShapes:
    """The shapes of a file's tensors; `where` names the file, `kind` what it should be."""

    where: str
    kind: str
    shapes: Mapping[str, Shape]

    def kernel(self, name: str) -> Shape:
        """A convolution's weight: four axes, the last two the same. UsageError for another."""
        weight = f"{name}.weight"
        shape = self.shapes.get(weight)
        if shape is None:
            raise UsageError(f"{self.where}: weight '{weight}' is missing; {self.kind} has it")
        if len(shape) != 4 or shape[2] != shape[3]:
            raise UsageError(
                f"{self.where}: weight '{weight}' has shape {shape}; {self.kind} has a convolution "
                "of a square kernel there"
            )
        for size, limit in zip(shape, (r.Width, r.Width, r.Kernel, r.Kernel), strict=True):
            checked(limit, size, f"{self.where}: '{weight}', shape")
        return shape

    def odd_kernel(self, name: str) -> Shape:
        """The same for one that keeps the sides of what it reads."""
        shape = self.kernel(name)
        if shape[2] % 2 == 0:
            raise UsageError(
                f"{self.where}: weight '{name}.weight' has a kernel of {shape[2]}, an even side; "
                f"{self.kind} has odd ones there"
            )
        return shape

    def count(self, prefix: str, most: int) -> int:
        """How many layers are numbered behind a prefix, from 0 to the last.

        UsageError for more than `most`, which no model has. One that is left out is missed when
        its shape is asked for.
        """
        found = [name.removeprefix(prefix).split(".")[0] for name in self.shapes
                 if name.startswith(prefix)]  # fmt: skip
        numbers = [int(number) for number in found if number.isdecimal() and len(number) < 6]
        count = 1 + max(numbers, default=-1)
        if count > most:
            raise UsageError(
                f"{self.where}: '{prefix}{count - 1}' is one too many, {most} are most"
            )
        return count


def norm_shapes(name: str, width: int, *, affine: bool = True) -> Iterator[tuple[str, Shape]]:
    """A batch norm's statistics, and its scale and shift where it has them."""
    for part in ("weight", "bias") if affine else ():
        yield f"{name}.{part}", (width,)
    for part in ("running_mean", "running_var"):
        yield f"{name}.{part}", (width,)
