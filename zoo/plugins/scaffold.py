"""Creates a new plugin from a template: `zoo plugin new`.

`templates/common` contains the files that all templates share; a template's own folder adds plugin.py and model.py. The
folder `package` gets the package's name, and every file ends in `.jinja`.
"""

import re
from pathlib import Path

from ..errors import PluginError, UsageError
from ..hookspecs import CONTRACT_VERSION
from ..system.files import folder_beside, put_in_place
from ..system.installation import install_command
from ..text import safe_text
from .finding import installed

TEMPLATES = Path(__file__).with_name("templates")

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 40


def package_of(family: str) -> str:
    """The package of a family's plugin: `zoo_my_model` of `my-model`."""
    return f"zoo_{family.replace('-', '_')}"


def write(family: str, template: str, out: Path) -> Path:
    """Writes the package of a new family to `out`, completely or not at all.

    Raises:
        UsageError: the name is invalid or taken, or `out` exists.
        PluginError: jinja2, which comes with the extra `build`, is not installed.
    """
    if not _NAME.fullmatch(family) or len(family) > _LONGEST:
        raise UsageError(
            f"'{safe_text(family)}' is not a family name: lower-case letters, digits, dashes, a letter first, at most"
            f" {_LONGEST}, e.g. my-model"
        )
    if taken := next((plugin for plugin in installed() if family in plugin.families), None):
        raise UsageError(f"{taken.distribution} already provides the family '{family}'; choose another name")
    if out.exists():
        raise UsageError(f"{safe_text(out)} exists and is not overwritten; choose another --out")
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ModuleNotFoundError:
        raise PluginError(f"the templates need jinja2; run: {install_command('build')}") from None

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )
    words = {
        "family": family,
        "distribution": f"zoo-{family}",
        "package": package_of(family),
        "title": "".join(part.capitalize() for part in family.split("-")),
        "contract": CONTRACT_VERSION,
    }
    with folder_beside(out) as folder:
        for source in sorted(path for name in ("common", template) for path in (TEMPLATES / name).rglob("*.jinja")):
            inside = source.relative_to(TEMPLATES)
            parts = [words["package"] if part == "package" else part for part in inside.parts[1:]]
            file = folder.joinpath(*parts).with_suffix("")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(environment.get_template(inside.as_posix()).render(words), encoding="utf-8")
        put_in_place(folder, out)
    return out
