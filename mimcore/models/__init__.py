"""Encoders from timm, decoders, patches and masks."""
