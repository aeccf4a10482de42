"""Peak rates of GPUs, for pricing a study on a machine that is not at hand."""

from dataclasses import dataclass

from mimcore.definition import nearest
from mimcore.errors import UserError


@dataclass(frozen=True)
class Gpu:
    """A GPU as its maker states it.

    Attributes:
        title: the maker's name.
        bfloat16: dense matrix products in bfloat16 with float32 accumulation, 10^12 operations a second. Data sheets
            that print the rate 'with sparsity' print twice this.
        float32: float32 outside tensor cores, 10^12 operations a second: what torch uses for ``precision: float32``.
        source: where both are stated.
    """

    title: str
    bfloat16: float
    float32: float
    source: str


GPUS = {
    "a10": Gpu("NVIDIA A10", 125, 31.2, "NVIDIA A10 datasheet"),
    "a100": Gpu("NVIDIA A100 SXM", 312, 19.5, "NVIDIA A100 datasheet"),
    "b200": Gpu("NVIDIA B200", 2250, 75, "NVIDIA HGX platform page: eight have 36,000 with sparsity and 600"),
    "h100": Gpu("NVIDIA H100 SXM", 989, 67, "NVIDIA H100 datasheet"),
    "h100-pcie": Gpu("NVIDIA H100 PCIe", 756, 51, "NVIDIA H100 datasheet of 2022"),
    "h200": Gpu("NVIDIA H200 SXM", 989, 67, "NVIDIA H200 datasheet"),
    "l4": Gpu("NVIDIA L4", 121, 30.3, "NVIDIA L4 datasheet"),
    "l40s": Gpu("NVIDIA L40S", 362, 91.6, "NVIDIA L40S datasheet"),
    "rtx3090": Gpu("NVIDIA GeForce RTX 3090", 71, 35.6, "NVIDIA Ampere GA102 white paper, appendix A"),
    "rtx4090": Gpu("NVIDIA GeForce RTX 4090", 165.2, 82.6, "NVIDIA Ada white paper, appendix A"),
}


def gpu(name: str) -> Gpu:
    """Look a GPU up.

    Raises:
        UserError: it is not in the table.
    """
    if name.lower() not in GPUS:
        raise UserError(f"--gpu: the table of peak rates has no '{name}'; {nearest(name.lower(), GPUS)}")
    return GPUS[name.lower()]


def peak(name: str, precision: str) -> float:
    """Operations a second of a GPU at best, in ``bfloat16`` or ``float32``."""
    found = gpu(name)
    return 1e12 * (found.bfloat16 if precision == "bfloat16" else found.float32)
