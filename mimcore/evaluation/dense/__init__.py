"""Classes and instances of pixels: read, drawn at random, and compared."""
