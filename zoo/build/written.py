"""Whether a config is the same after it was written to a manifest and read again."""

import math
from collections.abc import Mapping
from typing import Any

PLAIN = "a config has only dicts with names as keys, lists, text, finite numbers, true, false and None"


def lost_in_writing(config: Any, path: str = "") -> str:
    """`codec.sizes is a set; a config has only …`: the first value that does not survive; empty if all do."""
    where = path or "it"
    if isinstance(config, Mapping):
        if odd := [key for key in config if type(key) is not str]:
            return f"{where} has the key {odd[0]!r}; {PLAIN}"
        inner = [(f"{path}.{key}" if path else key, value) for key, value in config.items()]
    elif isinstance(config, list | tuple):
        inner = [(f"{path}[{i}]", value) for i, value in enumerate(config)]
    elif config is None or type(config) in (str, bool, int) or (type(config) is float and math.isfinite(config)):
        return ""
    elif type(config) is float:
        return f"{where} is {config}; {PLAIN}"
    else:
        kind = type(config)
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        return f"{where} is a {name}; {PLAIN}"
    return next((lost for name, value in inner if (lost := lost_in_writing(value, name))), "")


def first_change(before: Any, after: Any, path: str = "") -> str:
    """`codec.width was 4 and is 8`: the first value of a config in which another differs; empty if none does."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = [*before, *(key for key in after if key not in before)]
        pairs = [(f"{path}.{key}" if path else str(key), before.get(key), after.get(key)) for key in keys]
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple) and len(before) == len(after):
        pairs = [(f"{path}[{i}]", was, now) for i, (was, now) in enumerate(zip(before, after, strict=True))]
    else:
        return "" if before == after else f"{path or 'it'} was {before!r} and is {after!r}"[:300]
    return next((change for name, was, now in pairs if (change := first_change(was, now, name))), "")
