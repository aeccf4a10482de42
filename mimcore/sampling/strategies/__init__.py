"""Which images are drawn: one module a strategy."""
