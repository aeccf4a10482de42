"""Names of classes, from a JSON file."""

from pathlib import Path

from mimcore.artifacts import read_json
from mimcore.errors import UserError


def read_classes(path: Path) -> list[str]:
    """The names, in the order of the labels: from a list, or from a mapping of labels to names.

    Raises:
        UserError: the file is missing or holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; correct the option 'classes', or leave it out.")
    found = read_json(path)
    if isinstance(found, dict) and set(found) == {str(label) for label in range(len(found))}:
        found = [found[str(label)] for label in range(len(found))]
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise UserError(f"{path}: a list of class names is needed, in the order of the labels.")
    return found
