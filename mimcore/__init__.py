"""mimcore: scaling studies of masked image modeling, from images to curves, laws and forecasts."""

__version__ = "0.1.0"
