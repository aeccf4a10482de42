"""From a pool of images to an index, and from its rows to batches."""
