"""Options that every objective has."""

from mimcore.definition import Definition


class ObjectiveOptions(Definition):
    """What is kept of the objective when its run ends."""

    #: Write the decoder and mask token beside the encoder, as ``objective.safetensors``, so that a run can continue from all of it.
    keep_decoder: bool = False
