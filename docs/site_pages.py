"""The pages of the site that are not in docs/, for mkdocs: README.md, illustrated model cards, the API.

Pages are written for readers of the repository, so they link to its files. This module turns each such link into a link
to the page that shows the file; a file without a page, such as source code, gets one under `source/`.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import griffe
import yaml

from zoo.hookspecs import PUBLIC_MODULES

if TYPE_CHECKING:
    import numpy as np

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "build" / "samples"
"""Pictures drawn by models, by digest: drawing them takes most of the time of a first build."""

log = logging.getLogger("mkdocs.hooks.site_pages")  # a warning fails a strict build

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
    "CHANGELOG.md": "changelog.md",
}
"""File of the repository: its page."""

FENCE_OR_LINK = re.compile(
    r"^(?P<fence>```|~~~).*?^(?P=fence)|\]\((?P<target>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)", re.DOTALL | re.MULTILINE
)
LEFT_BEHIND = ("__pycache__", "node_modules")
SHOWN_BYTES = 100_000


# --- Model cards ------------------------------------------------------------------------------------------------------


def newest_models() -> dict[str, tuple[Path, str]]:
    """The default registry: each model's newest bundle and its digest."""
    models = yaml.safe_load((ROOT / "registry.yaml").read_text())["models"]
    newest = {name: max(model["versions"], key=int) for name, model in models.items()}
    return {
        name: (ROOT / "models" / name / str(version), models[name]["versions"][version]["digest"])
        for name, version in newest.items()
    }


def card(name: str, folder: Path, digest: str) -> tuple[str, dict[str, bytes]]:
    """A model's card as Markdown, with its pictures above the first section, and the pictures by file name."""
    sheets = _sheets(name, folder, digest)
    shown = "\n".join(f"![{text}]({file})\n\n{text}\n" for file, (text, _) in sheets.items())
    text = (folder / "README.md").read_text()
    return re.sub(r"^## ", lambda _: f"{shown}\n## ", text, count=1, flags=re.MULTILINE), {
        file: png for file, (_, png) in sheets.items()
    }


def _sheets(name: str, folder: Path, digest: str) -> dict[str, tuple[str, bytes]]:
    """File name: caption and PNG. What a model draws, and how it reconstructs the pictures of its golden cases."""
    import zoo

    sheets = {}
    tasks = zoo.load(str(folder)).manifest.tasks
    if "generate" in tasks:
        label = ", label=range(10)" if "label" in tasks["generate"].inputs else ""
        call = f'zoo.load("{name}").generate(seed=range(10){label})'
        sheets[f"{name}-generate.png"] = f"Drawn by `{call}`.", _kept(f"{digest}-generate", lambda: _drawn(folder))
    if "reconstruct" in tasks:
        text = "A golden case of `reconstruct`, test patterns unlike its training data: input above, output below."
        sheets[f"{name}-reconstruct.png"] = text, _kept(f"{digest}-reconstruct", lambda: _reconstructed(folder))
    return sheets


def _kept(name: str, draw: Any) -> bytes:
    file = SAMPLES / f"{name}.png"
    if not file.exists():
        SAMPLES.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(draw())
        unfinished.replace(file)
    return file.read_bytes()


def _drawn(folder: Path) -> bytes:
    import numpy as np

    import zoo

    model = zoo.load(str(folder))
    numbers = np.arange(10)
    labels = {"label": numbers} if "label" in model.manifest.tasks["generate"].inputs else {}
    return _sheet([model.generate(seed=numbers, **labels)["image"]])


def _reconstructed(folder: Path) -> bytes:
    """The golden case with the largest pictures."""
    from safetensors.numpy import load_file

    golden = load_file(folder / "golden.safetensors")
    inputs = {name: value for name, value in golden.items() if re.fullmatch(r"reconstruct/\d+/inputs/image", name)}
    name, before = max(inputs.items(), key=lambda item: item[1][0].size)
    return _sheet([before, golden[name.replace("inputs/image", "outputs/reconstruction")]])


def _sheet(rows: list[np.ndarray]) -> bytes:
    """Batches of pictures below each other, each pixel 3 x 3."""
    import numpy as np

    from zoo.media import Grid, encode_png

    pictures = np.concatenate(rows).repeat(3, axis=1).repeat(3, axis=2)
    _, height, width, _ = pictures.shape
    return encode_png(Grid(len(pictures), len(rows[0]), height, width).join(pictures))


# --- The API ----------------------------------------------------------------------------------------------------------


def api_page(module: str) -> str:
    """A page that mkdocstrings fills with the docstrings of a public module."""
    return f"# {module}\n\n::: {module}\n"


def without_docstring() -> set[str]:
    """The public modules, functions, classes, methods and properties without a docstring."""
    package = griffe.load("zoo", search_paths=[ROOT], allow_inspection=False)
    modules = [package if name == "zoo" else package[name.removeprefix("zoo.")] for name in PUBLIC_MODULES]
    return {path for module in modules for path in undocumented(module)}


def undocumented(module: griffe.Module) -> Iterator[str]:
    """Paths, as a user of the module writes them, of public objects in it without a docstring.

    Fields and constants do not need one.
    """
    waiting: list[tuple[str, griffe.Object]] = [(module.path, module)]
    while waiting:
        path, each = waiting.pop()
        if not each.docstring:
            yield path
        for name, member in each.members.items():
            brought = member.is_alias and name not in (each.exports or ())  # imported from elsewhere
            if name.startswith(("_", "pytest_")) or brought:
                continue
            target = member.final_target if member.is_alias else member
            if target.is_class or target.is_function or "property" in target.labels:
                waiting.append((f"{path}.{name}", target))


# --- Files of the repository ------------------------------------------------------------------------------------------


def links(markdown: str) -> list[str]:
    """Targets of links to files, outside code blocks."""
    targets = [found["target"] for found in FENCE_OR_LINK.finditer(markdown) if not found["fence"]]
    return [target for target in targets if _is_file(target)]


def _is_file(target: str) -> bool:
    return bool(target) and not re.match(r"[a-z]+:", target)


def source_page(path: Path) -> str:
    """A file of the repository as a code block, a folder as a list of its files."""
    text = f"---\nsearch:\n  exclude: true\n---\n\n# {path.relative_to(ROOT).as_posix()}\n\n"
    if path.is_dir():
        names = [(child.relative_to(path).as_posix(), _is_shown(child)) for child in _files(path)]
        return text + "\n".join(f"- [{name}]({name})" if shown else f"- {name}" for name, shown in names) + "\n"
    return f"{text}~~~~~~~~ {path.suffix.lstrip('.') or 'text'}\n{path.read_text()}\n~~~~~~~~\n"


def _files(path: Path) -> list[Path]:
    """The file, or all files in a folder, except those that an installation or a test left in it."""
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    return [
        file
        for file in found
        if file.is_file()
        and not any(part.startswith(".") or part in LEFT_BEHIND for part in file.relative_to(path.parent).parts[1:])
    ]


def _is_shown(file: Path) -> bool:
    """Whether it is text that a person would read."""
    return file.stat().st_size <= SHOWN_BYTES and b"\0" not in file.read_bytes()


def decisions_page() -> str:
    """The list of the decisions."""
    files = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    titles = [re.sub(r"^# \d+\. ", "", file.read_text().split("\n")[0]) for file in files]
    listed = [f"- {file.name[:4]}: [{title}]({file.name})" for file, title in zip(files, titles, strict=True)]
    return "\n".join(["# Decisions", "", "Design decisions, with their options and drawbacks.", "", *listed, ""])


class Site:
    """Which file of the repository is on which page, and the pages that are not in docs/."""

    def __init__(self, docs: dict[str, str]) -> None:
        """`docs`: the path in docs/ of each file of the site, and its text if it is a page, else None."""
        self.pages = {f"docs/{page}": page for page in docs}
        """File or folder of the repository: where it is on the site."""
        self.folders = {page: posixpath.dirname(f"docs/{page}") for page in docs}
        """Page: the folder of the repository to which its links are relative."""
        self.added: dict[str, str | bytes] = {}
        """Page or picture that is not in docs/: its contents."""
        for file, page in PAGES.items():
            self._add(page, (ROOT / file).read_text(), ROOT / file)
        self._add("decisions/index.md", decisions_page(), ROOT / "docs" / "decisions")
        for name, (folder, digest) in newest_models().items():
            text, pictures = card(name, folder, digest)
            self._add(f"cards/{name}.md", text, folder / "README.md")
            self.added |= {f"cards/{file}": png for file, png in pictures.items()}
        for page, text in [*docs.items(), *self.added.items()]:
            if page in self.folders:
                self._add_sources(page, text)
        self.added |= {f"api/{module}.md": api_page(module) for module in PUBLIC_MODULES}

    def _add(self, page: str, text: str, origin: Path) -> None:
        folder = origin if origin.is_dir() else origin.parent
        self.added[page] = text
        self.pages[origin.relative_to(ROOT).as_posix()] = page
        self.folders[page] = folder.relative_to(ROOT).as_posix()

    def _add_sources(self, page: str, text: str) -> None:
        """Adds pages for linked files that do not have one yet; for a folder, also for its files."""
        for target in links(text):
            path = ROOT / self._linked(page, target)
            if self._linked(page, target).startswith("../") or not path.exists():
                continue  # a broken link, which mkdocs reports
            for each in [*([path] if path.is_dir() else []), *filter(_is_shown, _files(path))]:
                name = each.relative_to(ROOT).as_posix()
                if name not in self.pages:
                    self._add(f"source/{name}{'/index' if each.is_dir() else ''}.md", source_page(each), each)

    def _linked(self, page: str, target: str) -> str:
        """The file or folder of the repository that a page's link points to."""
        return posixpath.normpath(posixpath.join(self.folders[page], target))

    def rewritten(self, page: str, markdown: str) -> str:
        """The page's text, with links to files of the repository replaced by links to pages."""
        if page not in self.folders:
            return markdown
        return FENCE_OR_LINK.sub(lambda found: found[0] if found["fence"] else self._link(page, found), markdown)

    def _link(self, page: str, found: re.Match[str]) -> str:
        shown = self.pages.get(self._linked(page, found["target"])) if _is_file(found["target"]) else None
        target = posixpath.relpath(shown, posixpath.dirname(page) or ".") if shown else found["target"]
        return f"]({target}{found['anchor'] or ''})"


# --- Hooks called by mkdocs -------------------------------------------------------------------------------------------

_site: Site


def on_config(config: Any) -> Any:
    """Fills the sections of the navigation that depend on the code."""
    decisions = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md"))
    sections = {
        "Models": [f"cards/{name}.md" for name in newest_models()],
        "API": [f"api/{module}.md" for module in PUBLIC_MODULES],
        "Decisions": ["decisions/index.md", *(f"decisions/{name}" for name in decisions)],
    }
    for section in config.nav:
        for title, entries in section.items():
            if title in sections:
                entries += sections[title]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are not in docs/, and looks for public names without a docstring."""
    from mkdocs.structure.files import File

    global _site
    _site = Site(
        {
            file.src_uri: file.content_string if file.is_documentation_page() else ""
            for file in files
            if not file.inclusion.is_excluded()
        }
    )
    for uri, content in _site.added.items():
        files.append(File.generated(config, uri, content=content))
    for name in sorted(without_docstring()):
        log.warning("%s is public and has no docstring", name)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    return _site.rewritten(page.file.src_uri, markdown)
