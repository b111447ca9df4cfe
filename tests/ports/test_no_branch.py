"""No code outside zoo/ports/ asks which kind a port has: a new kind would have to be added there as well.

Read off the syntax trees of zoo and of our plugins: no comparison, `in`, `match`, look-up or table takes a port's kind.
To make a port of some kind, `Port(kind="image", …)`, and to show its name is allowed.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from zoo.ports.kinds import KINDS

ROOT = Path(__file__).parents[2]
HOSTS = ROOT / "plugins" / "targets" / "zoo_targets" / "hosts"

CLASSES = {type(kind).__name__ for kind in KINDS.values()}
LOOK_UPS = {"get", "pop", "setdefault", "index", "count", "startswith", "endswith", "__contains__", "__getitem__"}
PORTS = {"inputs", "outputs"}
"""What a task's ports are given as: their names may be those of kinds."""


def branches(source: str) -> list[str]:
    """`LINE: CODE` for each place in Python source that depends on which kind a port has."""
    tree = ast.parse(source)
    bound = _bound(tree)
    named = _values_of(tree, PORTS)
    found = {node.lineno: node for node in ast.walk(tree) if node not in named and _branches(node, bound)}
    return [f"{line}: {ast.unparse(node).splitlines()[0]}" for line, node in sorted(found.items())]


def _branches(node: ast.AST, bound: set[str]) -> bool:
    def takes_kind(*parts: ast.AST) -> bool:
        return any(_is_kind(inner, bound) for part in parts for inner in ast.walk(part))

    match node:
        case ast.Compare(left=left, comparators=others):
            sides = (left, *others)
            if any(isinstance(side, ast.Constant) for side in sides) and not any(map(_names, sides)):
                return False  # a prior's kind, `masked`, is another sort of thing
            return takes_kind(*sides) or (any(map(_is_named_kind, sides)) and any(map(_names, sides)))
        case ast.Match(subject=subject, cases=cases):
            values = [p.value for case in cases for p in ast.walk(case.pattern) if isinstance(p, ast.MatchValue)]
            return takes_kind(subject) or (_is_named_kind(subject) and any(map(_names, values)))
        case ast.Subscript(slice=key):
            return takes_kind(key)
        case ast.Call(func=ast.Attribute(value=value, attr=name), args=args) if name in LOOK_UPS:
            return takes_kind(*args) or _is_kind(value, bound)
        case ast.Call(func=ast.Name(id="isinstance" | "getattr" | "hasattr" | "type"), args=[first, *others]):
            return _is_object(first, bound) or takes_kind(*others)
        case ast.Dict(keys=keys):
            return sum(bool(_names(key)) for key in keys if key) > 1
        case ast.Set(elts=elements) | ast.Tuple(elts=elements) | ast.List(elts=elements):
            return sum(bool(_names(element)) for element in elements) > 1
    return False


def _is_kind(node: ast.AST, bound: set[str]) -> bool:
    """Whether an expression is the name of a port's kind: `port.kind`, `port["kind"]`, `kind_of(port).name`, a name."""
    match node:
        case ast.Attribute(attr="kind", value=value):
            return not _is_dtype(value)
        case ast.Attribute(attr="name", value=value):
            return _is_object(value, bound)
        case ast.Subscript(slice=ast.Constant(value="kind")):
            return True
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value="kind"), *_]):
            return True
        case ast.SetComp(elt=element) | ast.ListComp(elt=element) | ast.GeneratorExp(elt=element):
            return _is_kind(element, bound)
        case ast.Name(id=name):
            return name in bound
    return False


def _is_object(node: ast.AST, bound: set[str]) -> bool:
    """Whether an expression is a Kind: `kind_of(port)`, `KINDS[…]`, a name."""
    match node:
        case ast.Call(func=ast.Name(id="kind_of") | ast.Attribute(attr="kind_of")):
            return True
        case ast.Subscript(value=ast.Name(id="KINDS") | ast.Attribute(attr="KINDS")):
            return True
        case ast.Name(id=name):
            return f"{name}()" in bound
    return False


def _is_dtype(node: ast.AST) -> bool:
    """NumPy's `dtype.kind` is another one."""
    match node:
        case ast.Name(id="dtype") | ast.Attribute(attr="dtype"):
            return True
        case ast.Call(func=function):
            return _is_dtype(function)
    return False


def _is_named_kind(node: ast.AST) -> bool:
    """A variable that calls itself one, such as a parameter."""
    return isinstance(node, ast.Name) and re.fullmatch(r"(.*_)?kind", node.id) is not None


def _names(node: ast.AST) -> list[str]:
    """The kinds that a constant, `Image.name`, or a literal of those names."""
    match node:
        case ast.Constant(value=str(name)) if name in KINDS:
            return [name]
        case ast.Attribute(attr="name", value=ast.Name(id=name)) if name in CLASSES:
            return [name]
        case ast.Set(elts=elements) | ast.Tuple(elts=elements) | ast.List(elts=elements):
            return [name for element in elements for name in _names(element)]
    return []


def _bound(tree: ast.AST) -> set[str]:
    """The names that are bound to a port's kind, or to several; `NAME()` for those that are bound to a Kind."""
    bound: set[str] = set()
    for _ in range(3):  # a name that is bound to a name that is bound to one
        for target, value in _bindings(tree):
            if isinstance(target, ast.Name):
                bound |= {target.id} if _is_kind(value, bound) else set()
                bound |= {f"{target.id}()"} if _is_object(value, bound) else set()
    return bound


def _bindings(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=targets, value=value):
                pairs = [(target, value) for target in targets]
            case ast.AnnAssign(target=target, value=ast.AST() as value) | ast.NamedExpr(target=target, value=value):
                pairs = [(target, value)]
            case ast.For(target=target, iter=value) | ast.comprehension(target=target, iter=value):
                pairs = [(target, value)]
            case _:
                continue
        for target, value in pairs:
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
                yield from zip(target.elts, value.elts, strict=True)
            else:
                yield target, value


def _values_of(tree: ast.AST, names: set[str]) -> set[ast.AST]:
    """What is given to keywords and variables of these names, and its parts: `Task(inputs={"image": …})`."""
    values: list[ast.AST] = []
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg=name, value=value) if name in names:
                values.append(value)
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in names:
                values.append(value)
    return {part for value in values for part in ast.walk(value) if isinstance(part, ast.Dict)}


# --- The code ---------------------------------------------------------------------------------------------------------


def _sources(*folders: str) -> list[Path]:
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in files if (ROOT / "zoo" / "ports") not in path.parents]


def test_zoo_and_its_plugins_ask_for_no_kind():
    files = _sources("zoo", "plugins")
    assert {"export.py", "triton.py", "run.py"} <= {path.name for path in files}
    found = [f"{p.relative_to(ROOT)}:{branch}" for p in files for branch in branches(p.read_text("utf-8"))]
    assert found == []


def test_hosts_in_other_languages_know_no_kinds():
    """They read `codec`, `field` and `shown` of model.json."""
    files = [p for p in HOSTS.rglob("*") if p.suffix in (".mjs", ".cpp") and p.parent.name != "runtime"]
    page = {
        f"{name}.mjs" for name in ("app", "dom", "fields", "files", "live", "outputs", "pictures", "videos", "worker")
    }
    assert page | {"run.mjs", "ports.mjs", "main.cpp"} == {p.name for p in files}
    lines = [f"{p.name}: {line}" for p in files for line in p.read_text("utf-8").splitlines() if "kind" in line.lower()]
    assert lines == []


# --- The test itself can fail -----------------------------------------------------------------------------------------

FORBIDDEN = {
    "a comparison": 'port.kind == "image"',
    "the other way round": '"image" != task.inputs[name].kind',
    "with a class's name": "port.kind == Image.name",
    "with another port's": "port.kind == other.kind",
    "in a tuple": 'port.kind in ("image", "mask")',
    "not in a constant": "port.kind not in PICTURES",
    "one of several": '"seed" in {p.kind for p in ports.values()}',
    "inside of an expression": 'any(p.kind.lower() == "image" for p in ports)',
    "of JSON": 'port["kind"] == "size"',
    "of JSON, with care": 'port.get("kind", "") == "size"',
    "by a name": 'kind = port.kind\nif kind == "image": pass',
    "by a name, in a tuple": "wanted, kind = 1, port.kind\nif kind in PICTURES: pass",
    "by the names of several": 'kinds = [p.kind for p in ports]\n"seed" in kinds',
    "by a loop": 'for one in [p.kind for p in ports]:\n    if one == "seed": pass',
    "by an assignment in an expression": "if (k := port.kind) and k != 'tensor': pass",
    "by a parameter": 'def f(kind):\n    return kind == "label"',
    "by a parameter, in a tuple": 'def f(a, port_kind):\n    return port_kind in ("label", "x")',
    "a match": 'match port.kind:\n    case "image": pass',
    "a match of a parameter": 'def f(kind):\n    match kind:\n        case "image" | "mask": pass',
    "a table": "FIELDS[port.kind]",
    "a table, with care": "FIELDS.get(port.kind, plain)",
    "a table of JSON": 'FIELDS[port["kind"]]',
    "a table as such": 'FIELDS = {"image": picture_field, "mask": mask_field}',
    "a table of classes' names": "FIELDS = {Image.name: picture_field, Mask.name: mask_field}",
    "a list as such": '_PER_PICTURE = ("label", "seed")',
    "a set as such": '_PER_PICTURE = {"label", "seed", "other"}',
    "the start of it": 'port.kind.startswith("im")',
    "the Kind's name": 'kind_of(port).name == "image"',
    "the Kind's class": "isinstance(kind_of(port), Label)",
    "the Kind's class, by a name": "found = kind_of(port)\nisinstance(found, Label)",
    "the Kind's class, compared": "type(kind_of(port)) is Label",
    "an attribute by it": "getattr(self, port.kind)",
}

ALLOWED = {
    "a new port": 'Port(kind="image", dtype="uint8", shape=("batch", 8, 8, 1))',
    "its name for people": 'f"{name} takes {port.kind}"',
    "its name in a row": "rows = [(n, port.kind, port.dtype) for n, port in ports.items()]\nif len(rows) > 3: pass",
    "a method of the Kind": "if kind_of(port).drawn: pass",
    "the same Kind": "kind_of(given) is kind_of(taken)",
    "what a host is given": 'port["codec"] == "pixels"',
    "NumPy's": 'array.dtype.kind in "iu"',
    "NumPy's, of a name": 'np.dtype(name).kind == "f" or dtype.kind == "u"',
    "ports by their names": 'Task(summary="x", inputs={"image": image, "mask": mask}, outputs={"image": image})',
    "a port by its name": 'values["size"] if "size" in values else arrays.get("tokens")',
    "another sort of thing": "kind = DeviceError if cuda else InvalidFileError\nraise kind(text)",
    "another thing's kind": 'masked = prior.kind == "masked"',
    "another sort, compared": 'for kind, magic in DECODERS:\n    if kind != "WebP": pass',
    "another sort, matched": "match kind:\n    case IntType(): pass",
}


@pytest.mark.parametrize("source", FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_branch_is_found(source):
    assert branches(source)


@pytest.mark.parametrize("source", ALLOWED.values(), ids=ALLOWED)
def test_what_is_no_branch_is_not(source):
    assert branches(source) == []
