"""Finds plugins from metadata and module sources. Nothing is imported."""

import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from ..errors import UsageError
from ..system.places import DEFAULT
from ..text import safe_text
from .metadata import entry_points, normalized

_GROUPS = {"zoo": "family", "zoo.target": "target"}
"""Entry-point groups for modules of hooks, and what a name in them means."""

_RENAME = (
    "rename the {kind}: its key under [project.entry-points.{group}] in pyproject.toml, and `name` in describe_{kind}"
)
"""How an author resolves a clash of names."""

MAX_MODULE_BYTES = 1 << 20
"""The limit for a plugin's module: every command that lists plugins parses its source."""

OFF = "plugins are off (--no-plugins or ZOO_NO_PLUGINS)"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_REPLACE = "upgrade it (pip install -U {distribution}) or remove it (pip uninstall {distribution})"


class Fault(Exception):
    """Why a plugin is set aside, and what to do; `{distribution}` in the fix is replaced by its distribution."""

    def __init__(self, reason: str, mend: str = _REPLACE):
        super().__init__(reason)
        self.reason, self.mend = reason, mend

    def line(self, distribution: str) -> str:
        return f"{safe_text(self.reason)}; {self.mend.replace('{distribution}', distribution)}"


_FOR_USERS = re.compile(
    r"; (upgrade it|upgrade the plugin|reinstall it)\b[^;]*$"
    r"|; remove it \(pip uninstall [^)]*\)$"
    r"|(?<=; )remove [^;]*, or (?=rename|correct)"
)
"""What the users of a plugin can do about it, and its author need not be told."""


def for_author(message: str) -> str:
    """The line of a `Fault` without the advice to upgrade, reinstall, remove or report the plugin."""
    return _FOR_USERS.sub("", message)


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """A module of hooks of an installed distribution, known without importing it."""

    distribution: str
    version: str
    module: str
    families: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    contract: int | None = None  # ZOO_CONTRACT, if the module's source states it
    problem: str = ""  # why it is set aside, and the fix; empty as long as nothing is wrong
    folder: str = ""  # its source, if it was found there and not among installed distributions

    @property
    def set_aside(self) -> str:
        """One line with the reason and what to do; empty for a plugin that is used."""
        return f"{self.distribution} {self.version} is set aside: {self.problem}" if self.problem else ""


class PluginRegistry(msgspec.Struct, frozen=True, kw_only=True):
    """A registry that an installed distribution contains as package data."""

    name: str
    distribution: str
    version: str
    folder: Path | None  # None: the package named in its metadata does not exist


class PluginCommand(msgspec.Struct, frozen=True, order=True):
    """A CLI command that an installed distribution provides."""

    name: str  # `zoo NAME`
    distribution: str
    version: str
    module: str
    attribute: str  # in the module: a click command or group
    problem: str = ""


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """What a pyproject.toml says about a plugin."""

    name: str
    version: str
    license: str
    families: dict[str, str]  # name: module
    entry_points: dict[str, dict[str, str]]  # by group: name and value


def enabled() -> bool:
    """Whether plugins are used at all: not with `--no-plugins` or ZOO_NO_PLUGINS=1."""
    return os.environ.get("ZOO_NO_PLUGINS", "") in ("", "0")


# --- Finding: metadata only, nothing is imported ----------------------------------------------------------------------


def installed() -> list[Plugin]:
    """The installed plugins, by distribution; those with a fault that is visible without an import have a problem."""
    if not enabled():
        return []
    names: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for group, kind in _GROUPS.items():
        for entry in entry_points(group):
            module = entry.distribution, entry.version, entry.value
            kinds = names.setdefault(module, {kind: [] for kind in _GROUPS.values()})
            kinds[kind].append(entry.name)
    plugins = [
        Plugin(
            distribution=name,
            version=version,
            module=module,
            families=tuple(sorted(kinds["family"])),
            targets=tuple(sorted(kinds["target"])),
        )
        for (name, version, module), kinds in sorted(names.items())
    ]
    claims = _claims(plugins)
    return [_examine(plugin, claims) for plugin in plugins]


def registries() -> list[PluginRegistry]:
    """The registries that installed distributions contain, by name.

    The default one has many parts, a distribution for each model. They are zoo's own models, not plugins, and so are
    the only ones that are found with plugins off.
    """
    found = [
        PluginRegistry(name=name, distribution=distribution, version=version, folder=_folder_of(package))
        for distribution, version, name, package in entry_points("zoo.registry")
        if name == DEFAULT or enabled()
    ]
    return sorted(found, key=lambda registry: (registry.name, registry.distribution))


def _folder_of(package: str) -> Path | None:
    top, *rest = package.split(".") if _MODULE.fullmatch(package) else [""]
    return next((path for root in roots(top) if (path := root.joinpath(*rest)).is_dir()), None)


def commands(reserved: Collection[str]) -> list[PluginCommand]:
    """The commands that installed distributions provide, by name; one whose name clashes has a problem.

    Args:
        reserved: names of zoo's own commands, which win.
    """
    if not enabled():
        return []
    found: list[PluginCommand] = []
    owners: dict[str, set[str]] = {}
    for distribution, version, name, value in entry_points("zoo.commands"):
        module, _, attribute = value.partition(":")
        found.append(PluginCommand(name, distribution, version, module.strip(), attribute.strip()))
        owners.setdefault(name, set()).add(distribution)
    return [
        msgspec.structs.replace(command, problem=_command_problem(command, reserved, owners[command.name]))
        for command in sorted(found)
    ]


def registries_of(plugin: Plugin) -> list[PluginRegistry]:
    """The registries that a plugin's distribution contains, installed or in a source folder."""
    return [
        PluginRegistry(name=name, distribution=plugin.distribution, version=plugin.version, folder=_folder_of(package))
        for name, package in sorted(_entries_of(plugin, "zoo.registry").items())
    ]


def commands_of(plugin: Plugin, reserved: Collection[str]) -> list[PluginCommand]:
    """Like `commands`, for the commands of a plugin's distribution, installed or in a source folder."""
    others = [entry for entry in entry_points("zoo.commands") if entry.distribution != plugin.distribution]
    found = []
    for name, value in sorted(_entries_of(plugin, "zoo.commands").items()):
        module, _, attribute = value.partition(":")
        command = PluginCommand(name, plugin.distribution, plugin.version, module.strip(), attribute.strip())
        owners = {plugin.distribution, *(entry.distribution for entry in others if entry.name == name)}
        found.append(msgspec.structs.replace(command, problem=_command_problem(command, reserved, owners)))
    return found


def _entries_of(plugin: Plugin, group: str) -> dict[str, str]:
    if plugin.folder:
        return project_of(Path(plugin.folder)).entry_points.get(group, {})
    return {entry.name: entry.value for entry in entry_points(group) if entry.distribution == plugin.distribution}


def _command_problem(command: PluginCommand, reserved: Collection[str], owners: set[str]) -> str:
    name, remove = command.name, f"remove it (pip uninstall {command.distribution})"
    rename = 'rename the command: its key under [project.entry-points."zoo.commands"] in pyproject.toml'
    if name in reserved:
        return f"zoo itself has the command '{name}', which {command.distribution} also provides; {remove}, or {rename}"
    if others := sorted(owners - {command.distribution}):
        both = f"{command.distribution} and {' and '.join(others)}"
        return f"{both} both provide the command '{name}'; {remove} or the other, or {rename}"
    if not _NAME.fullmatch(name):
        return f"'{safe_text(name)}' is not a command name (lower-case letters, digits, '.', '_', '-'); {remove}"
    if not _MODULE.fullmatch(command.module) or not command.attribute.isidentifier():
        return f"its command '{name}' must be given as module:attribute; {remove}, or correct it in pyproject.toml"
    return ""


def in_folder(folder: Path) -> list[Plugin]:
    """The plugins of a source folder, installed or not; puts `folder` and `folder/src` first on sys.path.

    Raises:
        UsageError: it has no pyproject.toml that declares a family.
    """
    project = project_of(folder)
    sys.path[:0] = [str(path.resolve()) for path in (folder / "src", folder) if path.is_dir()]
    others = [plugin for plugin in installed() if plugin.distribution != project.name]
    found = [
        Plugin(
            distribution=project.name,
            version=project.version,
            module=module,
            families=tuple(sorted(family for family, of in project.families.items() if of == module)),
            folder=str(folder),
        )
        for module in dict.fromkeys(project.families.values())
    ]
    claims = _claims([*others, *found])
    return [_examine(plugin, claims) for plugin in found]


def project_of(folder: Path) -> Project:
    """What a source folder's pyproject.toml says.

    Raises:
        UsageError: there is none, or it declares no family.
    """
    import tomllib

    file = folder / "pyproject.toml"
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    except OSError:
        raise UsageError(f"{safe_text(folder)} has no pyproject.toml, so it is not a plugin's folder") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UsageError(f"{safe_text(file)} cannot be read: {safe_text(e)}") from None
    families = project.get("entry-points", {}).get("zoo", {})
    if not families or "name" not in project:
        raise UsageError(
            f"{safe_text(file)} declares no family; docs/writing-a-plugin.md shows its entry point: "
            "[project.entry-points.zoo]"
        )
    licence = project.get("license", "")
    if isinstance(licence, dict):
        licence = licence.get("text") or licence.get("file", "")
    return Project(
        name=normalized(project["name"]),
        version=str(project.get("version", "0")),
        license=str(licence),
        families=dict(families),
        entry_points={group: dict(entries) for group, entries in project.get("entry-points", {}).items()},
    )


def _named(plugin: Plugin) -> list[tuple[str, str]]:
    """(kind, name) of the families and targets that a plugin provides."""
    return [("family", name) for name in plugin.families] + [("target", name) for name in plugin.targets]


def _claims(plugins: list[Plugin]) -> dict[tuple[str, str], list[str]]:
    """For each family and target, the distributions that provide it; only the one it is reserved for, if that does."""
    claims: dict[tuple[str, str], list[str]] = {}
    owners: dict[tuple[str, str], str] = {}
    reserved = reserved_names()
    for plugin in plugins:
        for named in _named(plugin):
            claims.setdefault(named, []).append(plugin.distribution)
            if plugin.module.split(".")[0] == reserved.get(named[1]):
                owners[named] = plugin.distribution
    return {named: [owners[named]] if named in owners else by for named, by in claims.items()}


def reserved_names() -> dict[str, str]:
    """Names of families and targets that zoo reserves, and the package that may provide each.

    Entry points of zoo's own distribution, in the group `zoo.reserved`: another distribution cannot take over a
    reserved name.
    """
    from ..system.installation import DISTRIBUTION  # takes long to import, and finding registries does not need it

    return {entry.name: entry.value for entry in entry_points("zoo.reserved") if entry.distribution == DISTRIBUTION}


def _examine(plugin: Plugin, claims: Mapping[tuple[str, str], list[str]]) -> Plugin:
    """The plugin with what its metadata and its module's source say about it."""
    from ..hookspecs import CONTRACT_VERSION, OLDEST_CONTRACT

    try:
        for kind, name in _named(plugin):
            if not _NAME.fullmatch(name):
                raise Fault(f"'{name}' is not a {kind} name (lower-case letters, digits, '.', '_', '-')")
            others = sorted(set(claims[kind, name]) - {plugin.distribution})
            if others or plugin.distribution not in claims[kind, name]:
                group = next(f'"{group}"' if "." in group else group for group, of in _GROUPS.items() if of == kind)
                rename = _RENAME.format(kind=kind, group=group)
                keep = "this one" if plugin.distribution not in claims[kind, name] else "one of them"
                raise Fault(
                    f"{plugin.distribution} and {' and '.join(others)} both provide the {kind} '{name}'",
                    f"remove {keep}: pip uninstall {plugin.distribution}, or {rename}",
                )
        contract = _read_contract(plugin.module)
        plugin = msgspec.structs.replace(plugin, contract=contract)
        if contract > CONTRACT_VERSION:
            raise Fault(
                f"it needs zoo with contract {contract}, this zoo has {CONTRACT_VERSION}", "run: pip install -U genzoo"
            )
        if contract < OLDEST_CONTRACT:
            raise Fault(
                f"it was written for contract {contract}, this zoo supports {OLDEST_CONTRACT} and newer",
                "upgrade the plugin: pip install -U {distribution}",
            )
    except Fault as fault:
        return msgspec.structs.replace(plugin, problem=fault.line(plugin.distribution))
    return plugin


def _read_contract(module: str) -> int:
    """ZOO_CONTRACT at the top level of a module's source, which is parsed, not run."""
    import ast

    source = _source(module)
    if source is None:
        raise Fault(
            f"its module '{module}' does not exist as Python source",
            "reinstall it: pip install --force-reinstall {distribution}",
        )
    if source.stat().st_size > MAX_MODULE_BYTES:
        raise Fault(f"its module {module} has {source.stat().st_size:,} bytes, the limit is {MAX_MODULE_BYTES:,}")
    try:
        with warnings.catch_warnings(action="ignore"):  # e.g. about invalid escapes in it
            tree = ast.parse(source.read_bytes())
    except SyntaxError as e:
        raise Fault(f"{source.name}:{e.lineno} is not valid Python {sys.version_info[0]}.{sys.version_info[1]}") from e
    except (OSError, ValueError, RecursionError, MemoryError) as e:
        raise Fault(f"its module {module} cannot be read ({brief(e)})") from e
    for statement in tree.body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name("ZOO_CONTRACT")], value=ast.Constant(int(version)))
                | ast.AnnAssign(target=ast.Name("ZOO_CONTRACT"), value=ast.Constant(int(version)))
            ) if version is not True and version is not False:
                return version
    raise Fault(f"{module} does not say which contract it was written for, e.g. ZOO_CONTRACT = 1")


def _source(module: str) -> Path | None:
    """The file that an import of a module would run, found without running the packages that contain it."""
    top, *rest = module.split(".") if _MODULE.fullmatch(module) else [""]
    for root in roots(top):
        inside = root.joinpath(*rest)
        for file in (inside, inside / "__init__.py", inside.with_name(f"{inside.name}.py")):
            if file.suffix == ".py" and file.is_file():
                return file
    return None


def roots(top: str) -> list[Path]:
    """The folders of a top-level package, or the file of a module, according to sys.path and editable installs."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return []
    places = (spec.submodule_search_locations or [spec.origin or ""]) if spec else []
    return [Path(place) for place in places if place]


def brief(error: BaseException) -> str:
    """`ValueError: text`, one short line, even if the error's own `__str__` fails."""
    try:
        text = str(error).strip().splitlines()
    except Exception:
        text = []
    return safe_text(f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__)
