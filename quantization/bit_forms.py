"""The forms that `--average-bits` chooses from, as plans spell them, and how many bytes each takes.

| form | what is stored |
|---|---|
| `int4/64` | integers of 2, 4 or 8 bits, an fp32 scale for so many inputs of an output (ONNX) |
| `palette4/32`, `palette4` | indices into a table for so many outputs, or for all (Core ML) |
| `fp16`, `fp32` | the values themselves |
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["int", "palette", "fp"]
Sizes = Mapping[str, Mapping[str, int]]  # weight -> form -> bytes
_SPELLED = re.compile(r"(int|palette|fp)([1-9][0-9]?)(?:/([1-9][0-9]{0,4}))?")


@dataclass(frozen=True)
class BitForm:
    """How a weight is stored; `group`: inputs that share a scale, or outputs a table (0: all)."""

    kind: Kind
    bits: int
    group: int = 0

    def __str__(self) -> str:
        return f"{self.kind}{self.bits}" + (f"/{self.group}" if self.group else "")

    def bytes(self, inputs: int, outputs: int, entry: int = 2) -> int:
        """All of a weight (inputs, outputs): indices or integers, and its tables or scales.

        A table's entries have `entry` bytes. A last block that is not full is stored whole.
        """
        if self.kind == "int":
            return outputs * -(-inputs // self.group) * (self.group * self.bits // 8 + 4)
        if self.kind == "fp":
            return inputs * outputs * self.bits // 8
        tables = outputs // self.group if self.group else 1
        return -(-inputs * outputs * self.bits // 8) + tables * (1 << self.bits) * entry


def parse_form(text: str) -> BitForm:
    """A form from its spelling; ValueError for what is none."""
    match = _SPELLED.fullmatch(text)
    if match is None:
        raise ValueError(text)
    kind: Kind = "int" if match[1] == "int" else "palette" if match[1] == "palette" else "fp"
    form = BitForm(kind, int(match[2]), int(match[3] or 0))
    allowed = {"int": (2, 4, 8), "palette": (1, 2, 3, 4, 6, 8), "fp": (16, 32)}[kind]
    if form.bits not in allowed or (kind == "int") != (form.group > 0 and kind != "palette"):
        raise ValueError(text)
    return form


def values_of(forms: Mapping[str, int]) -> int:
    """How many values a weight has, by its bytes in each of its forms."""
    return forms["fp32"] // 4 if "fp32" in forms else forms["fp16"] // 2


def average_bits(sizes: Sizes, forms: Mapping[str, str]) -> float:
    """Bits a value of all the weights in `sizes`, tables and scales included.

    A weight that `forms` does not name is as it was: in fp32, or in the package's type.
    """
    stored = sum(
        own[forms.get(name, "fp32" if "fp32" in own else "fp16")] for name, own in sizes.items()
    )
    return 8 * stored / sum(map(values_of, sizes.values()))


def least_bits(sizes: Sizes) -> float:
    """The average that no choice of forms is below."""
    stored = sum(min(own.values()) for own in sizes.values())
    return 8 * stored / sum(map(values_of, sizes.values()))
