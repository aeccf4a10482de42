"""Heads that tasks put on an encoder."""
