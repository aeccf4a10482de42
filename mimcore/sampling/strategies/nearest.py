"""The images most like any of a reference set, by the cosine similarity of their features.

Retrieval as in DINOv2 (Oquab et al., 2024, section 3), with one score for each image: its similarity to the reference that
is nearest. Scores are rounded to six decimals, and equal ones go by the hash of the key. Smaller draws are the
beginning of larger ones, the order of rows does not matter, and a grown pool changes a draw by newcomers alone.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mimcore.data.hashing import bottom, salted
from mimcore.errors import UserError
from mimcore.sampling.features import FeatureOptions, Features, read_vectors
from mimcore.sampling.files import PinnedFile

#: Vectors in float32 differ below this; products in float64 do not, wherever in a block a vector lies.
_DECIMALS = 6


class Config(FeatureOptions):
    """Options of the strategy."""

    #: Vectors to be near to, of the same kind and encoder; keys are not looked at.
    reference: PinnedFile


def nested(config: Config) -> bool:
    """Smaller draws are parts of larger ones."""
    return True


def columns(config: Config) -> list[str]:
    """None but the key."""
    return []


def draw(rows: pa.Table, config: Config, images: int, seed: str) -> npt.NDArray[np.int64]:
    """Positions of the drawn rows, the nearest first.

    Args:
        rows: N rows of an index; only ``key`` is looked at.
        config: options of the strategy, the paths of files absolute.
        images: how many, at most N.
        seed: name of the replicate, such as ``s0``.

    Returns:
        ``images`` positions, int64.

    Raises:
        UserError: a file does not fit, or an image has no vector; it begins with the option.
    """
    features = Features(rows, config)
    reference = read_vectors(config.reference, "reference")  # (R, D)
    similarity = np.empty(rows.num_rows)
    for places, vectors in features.scan():
        if reference.shape[1] != vectors.shape[1]:
            raise UserError(
                f"reference: it has {len(reference)} vectors of {reference.shape[1]} numbers, and the pool's have"
                f" {vectors.shape[1]}; make both with one encoder."
            )
        similarity[places] = (vectors @ reference.T).max(axis=1)
    order = bottom(rows["key"], rows.num_rows, salted(config.salt, seed))
    best = np.argsort(-similarity[order].round(_DECIMALS), kind="stable")
    return order[best[:images]]
