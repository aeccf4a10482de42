"""The one exception that is shown to a user as a sentence instead of a traceback."""


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one sentence or a few: what is wrong, where (file, field, key), and what to do.
    """
