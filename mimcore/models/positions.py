"""Fixed sine-cosine positions, of patches and of tokens in a row."""

import torch
from torch import Tensor


def sincos_positions(width: int, grid: tuple[int, int], prefix: int) -> Tensor:
    """Positions of a grid of patches, as in MAE (He et al. 2022, appendix A.1; Vaswani et al. 2017, section 3.5).

    The first half of the channels encodes the column, the second the row; in each half sines come before
    cosines, with wavelengths from 2 pi to 10000 * 2 pi in geometric progression.

    Args:
        width: channels, a multiple of 4.
        grid: rows and columns of patches.
        prefix: tokens ahead of the patches (class token, registers); their position is zero.

    Returns:
        float32 ``(1, prefix + rows * columns, width)``.
    """
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    frequencies = 10000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    halves = []
    for coordinate in (columns, rows):
        angles = coordinate.reshape(-1, 1).double() * frequencies
        halves += [angles.sin(), angles.cos()]
    patches = torch.cat(halves, dim=1)
    return torch.cat([torch.zeros(prefix, width, dtype=torch.float64), patches]).unsqueeze(0).float()


def sincos_sequence(width: int, length: int) -> Tensor:
    """Positions in a row (Vaswani et al. 2017, section 3.5), sines before cosines.

    Args:
        width: channels, a multiple of 2.
        length: tokens.

    Returns:
        float32 ``(1, length, width)``.
    """
    frequencies = 10000 ** -(torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angles = torch.arange(length).reshape(-1, 1).double() * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).unsqueeze(0).float()
