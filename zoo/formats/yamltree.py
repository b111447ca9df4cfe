"""YAML text to plain values, by an event scan that stops at the first violation, and plain values to YAML text.

It imports PyYAML, which takes a fifth as long as all of `zoo list`: `strictyaml` only imports it for a text whose
values it does not remember.
"""

import math
import re
from collections.abc import Iterable
from typing import Any, NoReturn

import yaml

from ..errors import InvalidFileError
from ..text import safe_text, sniff
from .fields import MAX_BYTES

MAX_NODES = 20_000
MAX_DEPTH = 16
MAX_SCALAR = 4096
_TOO_DEEP = f"nested more than {MAX_DEPTH} deep"

# A line that begins with `%`, after any of YAML's line breaks. libyaml compares every directive with every other: 1 MiB
# of them takes it many seconds.
_DIRECTIVE = re.compile("(?:\\A|[\r\n\x85\u2028\u2029])\ufeff*(%)")

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"-?(0|[1-9][0-9]{0,17})\Z")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]{0,17})\.[0-9]{1,20}([eE][+-]?[0-9]{1,3})?\Z")
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}

Lines = dict[tuple, int]  # path of keys and indices -> line, counted from 1


def compose(data: bytes, source: str) -> tuple[Any, Lines]:
    """The document as dicts, lists, str, int, float, bool and None, with the line of each node.

    Raises:
        InvalidFileError: `source:line: reason`.
    """
    if len(data) > MAX_BYTES:
        raise InvalidFileError(f"{safe_text(source)}: {len(data):,} bytes; a YAML file may have at most {MAX_BYTES:,}")
    if what := sniff(data):
        raise InvalidFileError(f"{safe_text(source)} is not a YAML file{what}")
    lines: Lines = {}
    try:
        text = data.decode("utf-8")
        if found := _DIRECTIVE.search(text):
            line = text.count("\n", 0, found.start(1)) + 1
            raise InvalidFileError(
                f"{safe_text(source)}:{line}: directives (lines that begin with %) are not allowed; leave them out"
            )
        events = yaml.parse(text, Loader=_Loader)
        tree = _Composer(events, source, lines).document()
    except UnicodeDecodeError as e:
        raise InvalidFileError(f"{safe_text(source)}: not UTF-8 text (byte {e.start})") from None
    except yaml.MarkedYAMLError as e:
        line = f":{e.problem_mark.line + 1}" if e.problem_mark else ""
        # libyaml looks ahead for a key, so with thousands of brackets its own limit is reached before ours.
        deep = "maximum nesting depth" in str(e.problem)
        reason = _TOO_DEEP if deep else f"not valid YAML: {safe_text(e.problem)}"
        raise InvalidFileError(f"{safe_text(source)}{line}: {reason}") from None
    except (yaml.YAMLError, ValueError) as e:
        raise InvalidFileError(f"{safe_text(source)}: not valid YAML: {safe_text(e).splitlines()[0]}") from None
    return tree, lines


class _Composer:
    """Builds the tree from parser events and stops at the first violation."""

    def __init__(self, events: Iterable[yaml.Event], source: str, lines: Lines):
        self.events, self.source, self.lines = iter(events), source, lines
        self.nodes = 0

    def document(self) -> Any:
        next(self.events)  # stream start
        first = next(self.events)
        if isinstance(first, yaml.StreamEndEvent):
            raise InvalidFileError(f"{safe_text(self.source)}: the file is empty")
        tree = self.node(next(self.events), ())
        next(self.events)  # document end
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            self.refuse(after, "a second document; only one is allowed")
        return tree

    def refuse(self, event: yaml.Event, reason: str) -> NoReturn:
        raise InvalidFileError(f"{safe_text(self.source)}:{event.start_mark.line + 1}: {reason}")

    def node(self, event: yaml.Event, path: tuple) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            self.refuse(event, f"more than {MAX_NODES:,} nodes")
        if len(path) > MAX_DEPTH:
            self.refuse(event, _TOO_DEEP)
        if not isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) or event.anchor is not None:
            self.refuse(event, "anchors and aliases are not allowed; write the value out")
        if event.tag is not None:
            self.refuse(event, f"tags are not allowed: {safe_text(event.tag)}")
        self.lines[path] = event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(path)
        return self.mapping(path)

    def scalar(self, event: yaml.ScalarEvent) -> Any:
        text = event.value
        if len(text) > MAX_SCALAR:
            self.refuse(event, f"a text of {len(text):,} characters; at most {MAX_SCALAR:,}")
        if event.style:  # quoted or block: always text
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.match(text):
            return int(text)
        if _FLOAT.match(text):
            if math.isinf(number := float(text)):
                self.refuse(event, f"{text} is too large a number")
            return number
        return text

    def sequence(self, path: tuple) -> list:
        items: list = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(event, (*path, len(items))))
        return items

    def mapping(self, path: tuple) -> dict:
        result: dict = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent) or event.anchor or event.tag:
                self.refuse(event, "a key must be plain text")
            key = event.value
            if key == "<<":
                self.refuse(event, "merge keys (<<) are not allowed; write the values out")
            if len(key) > 256:
                self.refuse(event, f"a key of {len(key):,} characters; at most 256")
            if key in result:
                self.refuse(event, f"'{safe_text(key)}' is here twice")
            result[key] = self.node(next(self.events), (*path, key))
        return result


def dump(tree: Any) -> bytes:
    """A tree as YAML that `compose` reads back as the same: innermost values on one line, keys in order."""
    return yaml.dump(
        tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110
    ).encode()


class _Dumper(yaml.SafeDumper):
    """SafeDumper without aliases; quotes text that `compose` would read as a number or keyword."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_str(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # Quoted: text that would be read as a number or keyword, and characters that PyYAML writes unchanged but reads
    # as line breaks.
    odd = any(not char.isprintable() and char != "\n" for char in text)
    quoted = odd or text in _WORDS or _INT.match(text) or _FLOAT.match(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if quoted else None)


_Dumper.add_representer(str, _represent_str)
