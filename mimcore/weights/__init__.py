"""Weights in and out: checkpoints of others, and whole models to continue from."""
