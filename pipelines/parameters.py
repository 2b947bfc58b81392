"""Objects of a configuration's parameters, refused by name where they don't fit."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from pipelines import InputError

T = TypeVar("T")


def build(kind: type[T], own: Mapping[str, Any], given: Mapping[str, Any], where: str) -> T:
    """A `kind` (a dataclass) from parameters.

    Args:
        kind: the class.
        own: arguments that are not the user's; `given` may override them.
        given: the user's, as in `read`.
        where: what the user calls the place, for errors.

    Raises:
        InputError: as `read`.
    """
    return kind(**{**own, **read(kind, given, where)})


def read(kind: type, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The user's parameters of a `kind`, each checked and read by the type of its field.

    Fields without a default are not the user's to give.

    Raises:
        InputError: unknown name or wrong type, with its full path.
    """
    import pydantic

    hints = typing.get_type_hints(kind)
    needed = dataclasses.MISSING
    names = [
        f.name
        for f in dataclasses.fields(kind)
        if f.init
        and not (f.default is needed and f.default_factory is needed)
        and f.name not in ("valid", "encoder")  # they come with the vectors
    ]
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names) or 'none'}"
            raise InputError(f"{where} has no parameter {name!r}; {hint}")
        try:
            values[name] = pydantic.TypeAdapter(hints[name]).validate_python(value)
        except pydantic.ValidationError as error:
            reason = error.errors()[0]["msg"].lower()
            raise InputError(f"{where}.{name} is {value!r}: {reason}") from error
    return values
