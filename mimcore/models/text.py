"""A text tower beside an image encoder, the projections of both into one space, and their files in a run artifact."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from mimcore import artifacts
from mimcore.errors import UserError
from mimcore.models.encoder import Encoder, load
from mimcore.models.families import Module
from mimcore.models.pooling import Kind, Pooling
from mimcore.models.tokenizer import Tokenizer, TokenizerOptions, from_description

#: Files of a run artifact: weights of the text tower, of the image side, and what both are made of.
TEXT, PROJECTION, DESCRIPTION = "text.safetensors", "projection.safetensors", "text.json"


class TextOptions(TokenizerOptions):
    """Options of a text tower; the defaults are CLIP's beside a ViT-B (Radford et al. 2021, table 20)."""

    text_width: int = Field(512, ge=16)
    text_depth: int = Field(12, ge=1)
    text_num_heads: int = Field(8, ge=1)
    #: Each token attends to those before it only (section 2.4); else to all of its text.
    causal: bool = True
    #: Width of the space that both towers are projected into (table 20: 512 beside ViT-B, 768 beside ViT-L).
    projection_dim: int = Field(512, ge=1)
    #: Attention pooling in Weers et al. 2023, who compare ``gap`` and ``max``; CLIP's own ViT has ``cls`` (released code).
    pooling: Kind = "cls"

    @model_validator(mode="after")
    def _heads(self) -> "TextOptions":
        if self.text_width % self.text_num_heads:
            raise ValueError(f"text_num_heads {self.text_num_heads} does not divide text_width {self.text_width}")
        return self


class TextTransformer(nn.Module):
    """CLIP's text encoder: the last state at the end mark, normalised and projected (Radford et al. 2021, section 2.4).

    Args:
        vocab_size: tokens there are, V.
        end: the token that closes a text.
        options: its shape: L ``context_length``, W ``text_width``, D ``projection_dim``.
    """

    def __init__(self, vocab_size: int, end: int, options: TextOptions) -> None:
        super().__init__()
        width, depth = options.text_width, options.text_depth
        norm: Any = partial(nn.LayerNorm, eps=1e-5)
        self.end, self.causal = end, options.causal
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Parameter(torch.empty(options.context_length, width))
        self.blocks = nn.ModuleList(
            Block(width, options.text_num_heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)
        )
        self.norm = norm(width)
        self.projection = nn.Linear(width, options.projection_dim, bias=False)
        self._initialize(width, depth)

    def _initialize(self, width: int, depth: int) -> None:
        """Normal weights of CLIP's released code: narrower where layers add up."""
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        deviations = {
            "attn.qkv": width**-0.5,
            "attn.proj": width**-0.5 * (2 * depth) ** -0.5,
            "mlp.fc1": (2 * width) ** -0.5,
            "mlp.fc2": width**-0.5 * (2 * depth) ** -0.5,
        }
        for block in self.blocks:
            for name, deviation in deviations.items():
                layer: Any = block.get_submodule(name)
                nn.init.normal_(layer.weight, std=deviation)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.projection.weight, std=width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, L)`` to vectors ``(B, D)``, not normalised."""
        last = self.norm(self.states(tokens))
        at_end = last[torch.arange(len(last), device=last.device), ends(tokens, self.end)]
        projected: Tensor = self.projection(at_end)
        return projected

    def states(self, tokens: Tensor, kept: Tensor | None = None) -> Tensor:
        """The last states of all tokens, before the norm.

        Args:
            tokens: int64 ``(B, L)``.
            kept: indices of the tokens that are read, ascending, int64 ``(B, K)``; None for all.

        Returns:
            ``(B, L, W)``, or ``(B, K, W)``.
        """
        x, valid = self.tokens(tokens) + self.positions, within(tokens, self.end)
        if kept is not None:
            x = x.gather(1, kept.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
            valid = valid.gather(1, kept)
        how: dict[str, Any] = {"is_causal": True} if self.causal else {"attn_mask": attended(valid)}
        for block in self.blocks:
            x = block(x, **how)
        found: Tensor = x
        return found


def ends(tokens: Tensor, end: int) -> Tensor:
    """Where the first end mark of each text is, int64 ``(B,)``."""
    return (tokens == end).int().argmax(dim=1)


def within(tokens: Tensor, end: int) -> Tensor:
    """Which tokens belong to the text, marks included, bool ``(B, L)``."""
    return torch.arange(tokens.shape[1], device=tokens.device) <= ends(tokens, end).unsqueeze(1)


def attended(valid: Tensor) -> Tensor:
    """A mask of attention from the tokens that count, bool ``(B, 1, N, N)``; a token always sees itself."""
    itself = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    return (valid.unsqueeze(1) | itself).unsqueeze(1)


class Projection(nn.Module):
    """The image side: pooling, and a projection into the space of the texts.

    Args:
        pooling: how an image's tokens become one vector.
        module: timm's encoder, for its width.
        outputs: D.
        initial_temperature: what the cosines are first divided by.
        max_scale: what they are multiplied by at most.
    """

    def __init__(
        self, pooling: Kind, module: Module, outputs: int, initial_temperature: float = 0.07, max_scale: float = 100.0
    ) -> None:
        super().__init__()
        self.pooling = Pooling(pooling, module)
        self.projection = nn.Linear(module.num_features, outputs, bias=False)
        nn.init.normal_(self.projection.weight, std=module.num_features**-0.5)  # CLIP's released code
        #: Logarithm of the scale, a vector of one, which FSDP can take apart.
        self.log_scale = nn.Parameter(torch.full((1,), -math.log(initial_temperature)))
        self.max_scale = max_scale

    def forward(self, encoder: Encoder | Module, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """Vectors of length 1, ``(B, D)``, of normalised images ``(B, C, H, W)``, or of their kept patches."""
        module = encoder.module if isinstance(encoder, Encoder) else encoder
        return self.project(self.pooling(module, images, kept))

    def project(self, pooled: Tensor) -> Tensor:
        """Vectors of length 1, float32 ``(B, D)``, of pooled ones."""
        return functional.normalize(self.projection(pooled).float(), dim=-1)

    @property
    def logit_scale(self) -> Tensor:
        """What cosines are multiplied by, a vector of one."""
        return self.log_scale.exp().clamp(max=self.max_scale)

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep the scale below its bound (Radford et al. 2021, section 2.5), and at 1 or more, as open_clip does after each step."""
        self.log_scale.clamp_(0.0, math.log(self.max_scale))


class TextTower(nn.Module):
    """A text tower of a run, with its tokenizer."""

    def __init__(self, transformer: TextTransformer, tokenizer: Tokenizer, context_length: int) -> None:
        super().__init__()
        self.transformer, self.tokenizer, self.context_length = transformer, tokenizer, context_length

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors of length 1 of N texts, float32 ``(N, D)``."""
        tokens = torch.from_numpy(self.tokenizer(texts, self.context_length)).to(self.transformer.positions.device)
        return functional.normalize(self.transformer(tokens).float(), dim=-1)


def read_captions(rows: pa.Table, tokenizer: Tokenizer, options: TokenizerOptions, prepared: bool) -> dict[str, Tensor]:
    """The captions of B images.

    Returns:
        ``tokens`` int64 ``(B, L)``, of an empty text where there is no caption, and ``known``, float32 ``(B,)``, 1 where there is one.

    Raises:
        UserError: there are captions, and no vocabulary was learned for them.
    """
    captions = [(caption or "").strip() for caption in rows["caption"].to_pylist()]
    if options.tokenizer == "bpe" and not prepared and any(captions):
        raise UserError(
            "objectives.tokenizer: 'bpe' has learned no vocabulary; run the stage 'prepare' first, or take 'bytes'."
        )
    tokens = torch.from_numpy(tokenizer(captions, options.context_length))
    return {"tokens": tokens, "known": torch.tensor([float(bool(caption)) for caption in captions])}


def save_towers(
    folder: Path, transformer: TextTransformer, projection: Projection, tokenizer: Tokenizer, options: TextOptions
) -> None:
    """Write ``text.safetensors``, ``projection.safetensors`` and ``text.json``, which has the digests of both."""
    digests = {}
    for name, module in ((TEXT, transformer), (PROJECTION, projection)):
        state = {key: tensor.detach().cpu().contiguous() for key, tensor in module.state_dict().items()}
        (folder / name).write_bytes(serialize(state))
        digests[name] = artifacts.file_digest(folder / name)
    shape = options.model_dump(mode="json", include=set(TextOptions.model_fields))
    described = {"options": shape, "max_scale": projection.max_scale, "tokenizer": tokenizer.description()}
    artifacts.write_json(folder / DESCRIPTION, {**described, "vocab_size": tokenizer.vocab_size, "sha256": digests})


def load_text(folder: Path) -> TextTower:
    """The text tower of a run, in evaluation mode.

    Raises:
        UserError: the run has none, or a file is broken.
    """
    described = artifacts.read_json(folder / DESCRIPTION)
    options, tokenizer = TextOptions.model_validate(described["options"]), from_description(described["tokenizer"])
    transformer = TextTransformer(described["vocab_size"], tokenizer.end, options)
    transformer.load_state_dict(_weights(folder, TEXT, described), strict=True)
    return TextTower(transformer, tokenizer, options.context_length).eval()


def load_projection(folder: Path) -> Projection:
    """The image side of a run's towers, in evaluation mode; ``forward(encoder, images)`` gives vectors of length 1.

    Raises:
        UserError: the run has none, or a file is broken.
    """
    described = artifacts.read_json(folder / DESCRIPTION)
    options = TextOptions.model_validate(described["options"])
    projection = Projection(
        options.pooling, load(folder).module, options.projection_dim, max_scale=described["max_scale"]
    )
    projection.load_state_dict(_weights(folder, PROJECTION, described), strict=True)
    return projection.eval()


def _weights(folder: Path, name: str, described: Mapping[str, Any]) -> dict[str, Tensor]:
    file = folder / name
    if artifacts.file_digest(file) != described["sha256"][name]:
        raise UserError(
            f"{file} is not the file that {folder / DESCRIPTION} tells of; delete both and run 'dvc repro'."
        )
    try:
        return deserialize(file.read_bytes())
    except SafetensorError as error:
        raise UserError(f"{file} is broken ({error}); delete it and run 'dvc repro'.") from None
