"""The default registry: the models that zoo itself lists, as far as they are installed.

The core contains only the list, with the digest of every version: registry.json in an installed package, registry.yaml
at the root of a checkout. The files of a model come with a distribution of its own, `genzoo-<name>`, in the folders
that the list names; a checkout has them next to the list. Whoever installed a file, it is only used if it has the
digest that the list gives, so what has the name of one of our models has its bytes.
"""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from ..errors import InvalidFileError, ZooError
from ..formats import registry as registries
from ..formats.reference import Reference
from ..formats.registry import (
    DEFAULT,
    FORMAT,
    REGISTRY,
    Registry,
    RegistryDocument,
    RegistryModel,
    RegistryVersion,
)
from ..names import MANIFEST
from ..system import places
from ..system.paths import is_file
from ..text import warn

if TYPE_CHECKING:
    from ..plugins import PluginRegistry

_UPGRADE = "upgrade it and zoo (pip install -U {0} genzoo) or remove it (pip uninstall {0})"
_REINSTALL = "reinstall it (pip install --force-reinstall --no-deps {0})"


def parts(found: "Iterable[PluginRegistry] | None" = None) -> list[Registry]:
    """The default registry: a part for each model's distribution, then the checkout, if zoo runs from one, else a part
    with the models that are not installed, which have no version. So no other registry gets their names.

    Args:
        found: what `zoo.plugins.registries` returned; it is called if this is None.

    Raises:
        ZooError: the list cannot be read.
    """
    if found is None:
        from ..plugins import registries as of_distributions

        found = of_distributions()
    document = _read_list()
    models = {places.distribution_of(name): name for name in document.models}
    installed = []
    for one in found:
        if one.name != DEFAULT:
            continue
        model = models.get(one.distribution, "")
        if one.folder and (versions := _versions_in(one.folder, document.models.get(model))):
            part = RegistryDocument(format=FORMAT, models={model: replace(document.models[model], versions=versions)})
            installed.append(Registry(DEFAULT, (one.folder / REGISTRY).absolute().as_uri(), part))
        else:
            known = model and one.version in [f"{number}.0" for number in document.models[model].versions]
            why = f"whose files are missing: {_REINSTALL}" if known else f"which this zoo does not list: {_UPGRADE}"
            warn("skipping the model of %s %s, %s", one.distribution, one.version, why.format(one.distribution))
    if not _is_checkout():
        there = {name for part in installed for name in part.document.models}
        absent = {name: replace(model, versions={}) for name, model in document.models.items() if name not in there}
        document = RegistryDocument(format=FORMAT, models=absent)
    file = places.default_folder() / (REGISTRY if _is_checkout() else places.LIST)
    return [*installed, Registry(DEFAULT, file.absolute().as_uri(), document)]


def absent(names: Collection[str]) -> list[str]:
    """The models of the list that are not among the names of those that are installed. A checkout has all of them."""
    return [] if _is_checkout() else [name for name in _models() if name not in names]


def has_name(reference: Reference) -> bool:
    """Whether a reference names a model of the list, installed or not."""
    return reference.registry in (None, DEFAULT) and reference.name in _models()


def install_line(reference: Reference) -> str:
    """How to install the model that a reference names; empty if the list has no such version, or it is installed."""
    listed = _models().get(reference.name)
    if not has_name(reference) or listed is None or reference.version not in (None, *listed.versions):
        return ""
    there = {v for part in parts() if (model := part.document.models.get(reference.name)) for v in model.versions}
    if there and reference.version in (None, *there):
        return ""
    from ..system.model_distributions import model_command

    older = reference.version if reference.version != max(listed.versions) else None
    command = model_command(reference.name, older)
    return f"{reference.name}{f':{older}' if older else ''} is not installed; run: {command}" if command else ""


def _models() -> dict[str, RegistryModel]:
    """The models of the list; none if it cannot be read, which is reported by whoever reads the registries."""
    try:
        return _read_list().models
    except ZooError:
        return {}


def _versions_in(folder: Path, model: RegistryModel | None) -> dict[int, RegistryVersion]:
    """The versions of a model of the list that are in a folder, which has the layout of a registry's."""
    versions = model.versions if model else {}
    return {number: version for number, version in versions.items() if is_file(folder / version.files[MANIFEST].url)}


def _is_checkout() -> bool:
    return not is_file(places.default_folder() / places.LIST)


def _read_list() -> RegistryDocument:
    """Every version of every model, installed or not. Every run reads it, and JSON is read 20 times as fast as YAML."""
    folder = places.default_folder()
    if _is_checkout():
        return registries.read(folder, DEFAULT).document
    try:
        return msgspec.json.decode((folder / places.LIST).read_bytes(), type=RegistryDocument)
    except (OSError, msgspec.MsgspecError) as e:
        raise InvalidFileError(f"{folder / places.LIST} cannot be read ({e}); reinstall genzoo") from None
