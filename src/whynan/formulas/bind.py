"""Turn a formula into a function of one framework."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from whynan.formulas.backend import Backend

Result = TypeVar("Result")


def bind(
    xp: Backend, formula: Callable[..., Result], names: dict[str, str] | None = None, **defaults: Any
) -> Callable[..., Result]:
    """Return `formula` of the framework `xp`, with the same name, documentation and signature less its first parameter.

    Args:
        xp: the framework.
        formula: a function whose first parameter is a `Backend`.
        names: further names of parameters, the way the framework calls them: {"axis": "dim"}.
        defaults: defaults of the framework, in place of the formula's.
    """
    signature = inspect.signature(formula)
    parameters = list(signature.parameters.values())[1:]
    known = {parameter.name for parameter in parameters}
    defaults = {name: value for name, value in defaults.items() if name in known}
    aliases = {theirs: ours for theirs, ours in (names or {}).items() if ours in known and theirs not in known}

    @functools.wraps(formula)
    def function(*args: Any, **given: Any) -> Result:
        for theirs, ours in aliases.items():
            if theirs in given:
                if ours in given:
                    raise TypeError(f"{formula.__name__}() got both {theirs!r} and {ours!r}: they are the same")
                given[ours] = given.pop(theirs)
        for name, value in defaults.items():
            if name not in given and position[name] >= len(args):
                given[name] = value
        return formula(xp, *args, **given)

    position = {parameter.name: place for place, parameter in enumerate(parameters)}
    shown = [p.replace(default=defaults[p.name]) if p.name in defaults else p for p in parameters]
    shown_function: Any = function
    shown_function.__signature__ = signature.replace(parameters=shown)
    del shown_function.__wrapped__
    if aliases and function.__doc__:
        said = ", ".join(f"`{theirs}` for `{ours}`" for theirs, ours in aliases.items())
        function.__doc__ = f"{function.__doc__.rstrip()}\n\n    Also understood: {said}.\n    "
    return function
