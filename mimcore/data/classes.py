"""Names of classes, from a JSON file."""

import json

from mimcore.data.files import Files
from mimcore.errors import UserError


def read_classes(files: Files, name: str) -> list[str]:
    """The names, in the order of the labels: from a list, or from a mapping of labels to names.

    Args:
        files: of the pool.
        name: of a JSON file among them.

    Raises:
        UserError: the file is missing or holds something else.
    """
    if not files.exists(name):
        raise UserError(f"{files.where(name)} is missing; correct the option 'classes', or leave it out.")
    try:
        found = json.loads(files.read(name))
    except ValueError as error:
        raise UserError(f"{files.where(name)} is not valid JSON ({error}); correct it.") from None
    if isinstance(found, dict) and set(found) == {str(label) for label in range(len(found))}:
        found = [found[str(label)] for label in range(len(found))]
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise UserError(f"{files.where(name)}: a list of class names is needed, in the order of the labels.")
    return found
