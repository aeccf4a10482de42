"""From an index to a subset."""
