"""MAE's decoder: a light transformer over kept tokens and mask tokens."""

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from mimcore.models.encoder import initialize
from mimcore.models.positions import sincos_positions


class Decoder(nn.Module):
    """Predicts the hidden patches from the kept tokens (He et al. 2022, section 3, 'MAE decoder').

    The encoder's prefix tokens (class token, registers) take part in the attention with a position of zero.

    Args:
        encoder_width: channels of the tokens that come in, D.
        width: channels inside the decoder.
        depth: number of transformer blocks.
        num_heads: attention heads of each.
        grid: rows and columns of patches, N = rows * columns.
        outputs: values to predict for each patch, P.
        mask_tokens: the hidden patches come as mask tokens of its own; else they come from the encoder.
    """

    positions: Tensor

    def __init__(
        self,
        encoder_width: int,
        width: int,
        depth: int,
        num_heads: int,
        grid: tuple[int, int],
        outputs: int,
        mask_tokens: bool = True,
    ) -> None:
        super().__init__()
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width)) if mask_tokens else None
        self.blocks = nn.ModuleList(Block(width, num_heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        self.norm = norm(width)
        self.predict = nn.Linear(width, outputs)
        self.register_buffer("positions", sincos_positions(width, grid, 0), persistent=False)
        initialize(self)
        if self.mask_token is not None:
            nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, order: Tensor, kept: int) -> Tensor:
        """Predict hidden patches.

        Args:
            tokens: prefix and kept tokens, ``(B, prefix + K, D)``, the kept in the order of ``order[:, :K]``; without mask
                tokens of its own those of ``order[:, K:]`` follow.
            order: the kept patches, then those to predict, int64 ``(B, K + M)``.
            kept: K.

        Returns:
            ``(B, M, P)``, in the order of ``order[:, K:]``.
        """
        x = self.embed(tokens)
        prefix = tokens.shape[1] - (order.shape[1] if self.mask_token is None else kept)
        if self.mask_token is not None:
            hidden = self.mask_token.to(x.dtype).expand(order.shape[0], order.shape[1] - kept, -1)
            x = torch.cat([x, hidden], dim=1)
        # Attention does not depend on the order of tokens: positions are shuffled, and nothing is put back in place.
        index = order.unsqueeze(-1).expand(-1, -1, self.positions.shape[-1])
        positions = self.positions.expand(order.shape[0], -1, -1).gather(1, index)
        x = x + functional.pad(positions, (0, 0, prefix, 0))
        for block in self.blocks:
            x = block(x)
        predicted: Tensor = self.predict(self.norm(x[:, prefix + kept :]))
        return predicted
