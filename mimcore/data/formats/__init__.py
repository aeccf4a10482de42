"""How the images of a pool are kept: one module a format."""
