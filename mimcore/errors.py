"""The exceptions that are shown to a user as a sentence instead of a traceback."""


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one sentence or a few: what is wrong, where (file, field, key), and what to do.
    """


class Preempted(Exception):  # noqa: N818
    """The work was asked to end, has saved its state, and goes on when it is started again."""

    #: Status of the process: 'temporary failure' of sysexits.h, for whoever puts it in the queue again.
    EXIT_STATUS = 75
