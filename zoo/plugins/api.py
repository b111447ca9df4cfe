"""The plugin contract as data: what `zoo plugin api` prints, and what a test compares with earlier versions."""

import inspect
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_origin

import msgspec

from .. import hookspecs
from ..hookspecs import CHANGES, CONTRACT_VERSION, ENTRY_POINTS, OLDEST_CONTRACT, PUBLIC_MODULES


class Hook(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    request: str  # type of its one argument
    answer: str  # type of what it returns
    summary: str


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """The contract of this version of zoo."""

    version: int
    oldest: int  # plugins written for this version and newer work
    hooks: list[Hook]
    types: dict[str, dict[str, str]]  # what the hooks exchange: fields or methods, and their types; `?` has a default
    entry_points: dict[str, str]
    modules: tuple[str, ...]  # what a plugin may import
    changes: dict[int, tuple[str, ...]]  # what each version added


def describe() -> Contract:
    """The contract, read from `zoo.hookspecs`."""
    public = {name: value for name, value in vars(hookspecs).items() if not name.startswith("_")}
    return Contract(
        version=CONTRACT_VERSION,
        oldest=OLDEST_CONTRACT,
        hooks=[_hook(name, value) for name, value in public.items() if hasattr(value, "zoo_spec")],
        types={name: dict(_members(value)) for name, value in public.items() if _is_ours(value)},
        entry_points=ENTRY_POINTS,
        modules=PUBLIC_MODULES,
        changes=CHANGES,
    )


def _hook(name: str, function: Any) -> Hook:
    types = function.__annotations__
    summary = inspect.cleandoc(function.__doc__).split("\n\n")[0].replace("\n", " ")
    return Hook(name=name, request=types["request"], answer=types["return"], summary=summary)


def _is_ours(value: Any) -> bool:
    return inspect.isclass(value) and get_origin(value) is None and value.__module__ == hookspecs.__name__


def _members(kind: Any) -> Iterator[tuple[str, str]]:
    """A type's fields with their types, or a protocol's methods with their signatures."""
    if is_dataclass(kind):
        for field in fields(kind):
            required = field.default is MISSING and field.default_factory is MISSING
            yield field.name + ("" if required else "?"), str(field.type)
    elif issubclass(kind, msgspec.Struct):
        for field in msgspec.structs.fields(kind):
            yield field.name + ("" if field.required else "?"), str(kind.__annotations__[field.name])
    else:
        for name, method in vars(kind).items():
            if inspect.isfunction(method) and not name.startswith("_"):
                yield name, str(inspect.signature(method))
