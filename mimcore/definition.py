"""Options are declared as ``Definition`` classes, beside the code that uses them."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mimcore.errors import UserError


class Definition(BaseModel):
    """A frozen set of typed options; an unknown key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


D = TypeVar("D", bound=Definition)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'x'?"`` or the list of known names, as the end of an error message."""
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    return "known: " + (", ".join(options) if options else "none") + "."


def problems(definition: type[Definition], options: Mapping[str, Any], where: str) -> list[str]:
    """List everything that is wrong with ``options``, each with its dotted path below ``where``."""
    try:
        definition.model_validate(dict(options))
    except ValidationError as error:
        return [_sentence(definition, item, where) for item in error.errors()]
    return []


def resolve(definition: type[D], options: Mapping[str, Any], where: str) -> D:
    """Check ``options`` and fill in the defaults.

    Raises:
        UserError: with all mistakes at once, each with its dotted path below ``where``.
    """
    found = problems(definition, options, where)
    if found:
        raise UserError("\n".join(found))
    return definition.model_validate(dict(options))


def _sentence(definition: type[Definition], item: Any, where: str) -> str:
    path = ".".join([where, *(str(part) for part in item["loc"])])
    if item["type"] == "extra_forbidden":
        fields = definition.model_fields if len(item["loc"]) == 1 else {}
        return (
            f"{path}: unknown option; {nearest(str(item['loc'][-1]), fields)}" if fields else f"{path}: unknown option."
        )
    if item["type"] == "missing":
        return f"{path}: required, but not given."
    message = item["msg"].removeprefix("Value error, ")
    return f"{path}: {message[:1].lower()}{message[1:]} (got {item['input']!r})."
