"""Reads pickles that strangers wrote, without running any of their code.

A pickle is a program for a small stack machine. Python's own reader runs it: it imports modules and calls functions.
This one only builds data. A name stays a `Name`; a call runs one of *our* functions if `known` has one for that name,
and otherwise becomes an inert `StandIn`; nothing from the file is imported, called or hashed.

It is a separate interpreter instead of a subclass of `pickle.Unpickler`, whose C code allocates 32 GB for a file of ten
bytes (a memo index) and overflows the C stack on a nested key.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

MAX_OPCODES = 1_000_000
"""The most opcodes. A checkpoint has about 40 per tensor, including its optimiser's. Limits time, and memory to about
200 bytes per opcode."""
MAX_NAME = 500  # characters of a class's or function's name
MAX_ARGUMENTS = 20


@dataclass(frozen=True)
class Name:
    """The name of a class or function in the file; it is never looked up."""

    text: str  # `module.name`

    def __str__(self) -> str:
        return self.text


@dataclass(eq=False, repr=False)
class StandIn:
    """A placeholder for an object of a class named in the file: its name and parts, as data."""

    kind: str
    arguments: Any = ()
    state: Any = None
    entries: dict = field(default_factory=dict)  # if it is a subclass of dict


Known = Mapping[str, Callable[..., Any]]
_MARKED = frozenset(
    {"TUPLE", "LIST", "DICT", "FROZENSET", "APPENDS", "ADDITEMS", "SETITEMS", "OBJ", "INST", "POP_MARK"}
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,  # a set would hash objects from the file
    "EMPTY_DICT": dict,
}
_PLAIN = (str, int, float, bool, bytes, bytearray)
_KEYS = (str, int, float, bool, bytes, type(None))  # hashing these is safe


def load(stream: BinaryIO, known: Known, persistent: Callable[[Any], Any]) -> Any:
    """The object described by the pickle at the stream's position; leaves the stream after the pickle's end.

    Args:
        stream: has `read`, which never returns more than there is, and `readline`.
        known: `module.name` to our function that is called instead.
        persistent: returns the object of a persistent id.

    Raises:
        ValueError: not a pickle, cut short, too long, or an opcode that no checkpoint needs. The functions in `known`
            may raise anything; a broken pickle can also cause IndexError, KeyError or TypeError.
    """
    return _Machine(known, persistent).run(stream)


class _Machine:
    def __init__(self, known: Known, persistent: Callable[[Any], Any]):
        self.known, self.persistent = known, persistent
        self.stack: list = []
        self.below: list[list] = []  # the stack below each mark
        self.memo: dict[int, Any] = {}

    def run(self, stream: BinaryIO) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= MAX_OPCODES:
                raise ValueError(f"a pickle of more than {MAX_OPCODES:,} opcodes")
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise ValueError("a pickle without an end")

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        items = self.pop_mark() if name in _MARKED else []
        match name:
            case "PROTO" | "FRAME" | "POP_MARK":
                pass
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "POP":
                stack.pop()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                length = int(name[-1])
                stack[-length:] = [tuple(stack[-length:])]
            case "TUPLE" | "FROZENSET":
                self.stack.append(tuple(items))
            case "LIST":
                self.stack.append(items)
            case "DICT":
                self.stack.append(_put({}, items))
            case "APPEND":
                item = stack.pop()
                _extend(stack[-1], [item])
            case "APPENDS" | "ADDITEMS":
                _extend(self.stack[-1], items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _put(stack[-1], [key, value])
            case "SETITEMS":
                _put(self.stack[-1], items)
            case "GLOBAL":
                stack.append(Name(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(Name(f"{_text(module)}.{_text(attribute)}"))
            case "INST":
                self.stack.append(self.call(Name(argument.replace(" ", ".")), tuple(items)))
            case "OBJ":
                self.stack.append(self.call(items[0], tuple(items[1:])))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self.call(function, arguments))
            case "NEWOBJ_EX":
                _, arguments, function = stack.pop(), stack.pop(), stack.pop()
                stack.append(self.call(function, arguments))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], StandIn):  # state that the file sets on our own objects is dropped
                    stack[-1].state = state
            case "BINPERSID":
                stack.append(self.persistent(stack.pop()))
            case _ if name in _CONSTANTS:
                stack.append(_CONSTANTS[name]())
            case _ if type(argument) in _PLAIN and not name.startswith(("EXT", "PERSID")):
                stack.append(argument)
            case _:
                raise ValueError(f"a pickle with the opcode {name}, which no checkpoint needs")

    def pop_mark(self) -> list:
        items, self.stack = self.stack, self.below.pop()
        return items

    def call(self, function: Any, arguments: Any) -> Any:
        if isinstance(function, Name) and function.text in self.known:
            # With the memo, long arguments cost the file nothing, so copying them would not be limited by its size.
            if not isinstance(arguments, tuple) or len(arguments) > MAX_ARGUMENTS:
                raise ValueError(f"a pickle that calls {function} without a tuple of at most {MAX_ARGUMENTS} arguments")
            return self.known[function.text](*arguments)
        return StandIn(function.text if isinstance(function, Name) else "object", arguments)


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise ValueError(f"a pickle with a name that is not text of at most {MAX_NAME} characters")
    return value


def _extend(target: Any, items: list) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, StandIn):  # a subclass of list is never a state dict
        raise ValueError("a pickle that appends to something other than a list")


def _put(target: Any, items: list) -> Any:
    """Puts alternating keys and values into a dict. A key that is a class (callbacks of Lightning) becomes its name,
    and any other object as a key is dropped with its value: the names of tensors are text."""
    entries = target.entries if isinstance(target, StandIn) else target
    if not isinstance(entries, dict) or len(items) % 2:
        raise ValueError("a pickle that sets items of something other than a dict")
    for key, value in zip(items[::2], items[1::2]):
        if isinstance(key, Name):
            key = key.text
        if isinstance(key, _KEYS) and not (isinstance(key, int) and abs(key) >> 63):  # hashing a long integer is slow
            entries[key] = value
    return target
