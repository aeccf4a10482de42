"""Visual prompt tuning: every block of a frozen transformer sees a few learned tokens beside its own (Jia et al. 2022, VPT-deep)."""

import math

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class Prompted(nn.Module):
    """A block with ``number`` learned tokens, which it sees and does not give back: ``(B, prefix + N, D)``, in and out.

    In the paper the prompts that come out of a block are replaced by the next block's own (section 3.2, equations 5 and 6), so that to
    drop them is the same. They stand between the class token and the patches, as in the released code (``vit_prompt/vit.py``).

    Args:
        block: of the transformer.
        number: prompts.
        width: D.
        prefix: tokens ahead of the patches.
        bound: prompts start uniform between its negative and itself.
    """

    def __init__(self, block: nn.Module, number: int, width: int, prefix: int, bound: float) -> None:
        super().__init__()
        self.block, self.prefix = block, prefix
        self.prompts = nn.Parameter(torch.empty(number, width))
        nn.init.uniform_(self.prompts, -bound, bound)

    def forward(self, tokens: Tensor) -> Tensor:
        """Run the block."""
        first, patches = tokens[:, : self.prefix], tokens[:, self.prefix :]
        prompts = self.prompts.to(tokens.dtype).expand(len(tokens), -1, -1)
        seen = self.block(torch.cat([first, prompts, patches], dim=1))
        return torch.cat([seen[:, : self.prefix], seen[:, self.prefix + len(self.prompts) :]], dim=1)


def add_prompts(module: VisionTransformer, number: int) -> list[nn.Parameter]:
    """Give every block of a plain vision transformer prompts of its own, in place.

    Their start is the released code's, Xavier-uniform as if they were patches embedded: the bound is the root of 6 / (C P^2 + D), for
    patches of P x P pixels and C channels.

    Args:
        module: timm's; it is changed.
        number: prompts of each block.

    Returns:
        The prompts, ``(number, D)`` for each block.
    """
    projection = module.patch_embed.proj
    assert isinstance(projection, nn.Conv2d)
    inputs = projection.in_channels * math.prod(projection.kernel_size)
    bound = math.sqrt(6 / (inputs + module.embed_dim))
    wrapped = [Prompted(block, number, module.embed_dim, module.num_prefix_tokens, bound) for block in module.blocks]
    module.blocks = nn.Sequential(*wrapped)
    return [block.prompts for block in wrapped]
