"""The site: what it is made of, that it is whole, and that it asks no other server for anything."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import griffe
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import field_comments  # noqa: E402
import site_pages  # noqa: E402


def build(out: Path, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", config, "--site-dir", out]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.slow
def test_the_site_has_every_kind_of_page(built):
    for page, text in {
        "index.html": "Generative models that anyone can run",
        "cli.html": "zoo run",
        "contract.html": "build_module",
        "contributing.html": "Where things are",
        "security.html": "CVE-2026-27489",
        "decisions/0016-docs-site.html": "MkDocs Material",
        "api/zoo.html": 'id="zoo.load"',
        "api/zoo.hookspecs.html": "hosts fill it in; None: the caller must give a value",  # a comment behind a field
        "api/zoo.build.optim.html": 'id="zoo.build.optim.cosine_rate"',
        "cards/ddpm-fashion.html": "<img",
        "source/zoo/hookspecs.py.html": "THE CONTRACT",
    }.items():
        assert text in (built / page).read_text(), page
    names = site_pages.newest_models()
    assert len(names) >= 9 and all((built / "cards" / f"{name}.html").exists() for name in names)


@pytest.mark.slow
def test_cards_have_pictures_of_what_models_draw(built):
    from PIL import Image

    drawn = sorted(path.name for path in (built / "cards").glob("*-generate.png"))
    assert len(drawn) >= 7 and "ddpm-fashion-generate.png" in drawn
    for name in drawn:
        image = Image.open(built / "cards" / name)
        assert image.size == (10 * (3 * 28 + 2) - 2, 3 * 28)
        assert len(set(image.tobytes())) > 50


@pytest.mark.slow
def test_no_page_fetches_anything_from_another_server(built):
    pages, styles = list(built.rglob("*.html")), list(built.rglob("*.css"))
    assert len(pages) > 50 and len(styles) >= 2
    fetched = r'<(?:script|img|iframe|link|source|video|audio)\b[^>]*?\b(?:src|href|srcset)="?((?:https?:)?//[^"\s>]+)'
    assert [found for page in pages for found in re.findall(fetched, page.read_text())] == []
    assert [found for style in styles for found in re.findall(r"url\(['\"]?(?:https?:)?//", style.read_text())] == []


@pytest.mark.slow
def test_broken_links_and_lost_pages_fail(tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("examples"))
    with (tmp_path / "docs" / "bundle.md").open("a") as page:
        page.write("\n[a](nowhere.md) [b](noise.md#nowhere) [c](../zoo/nowhere.py)\n")
    (tmp_path / "docs" / "lost.md").write_text("# Lost\n")
    config = tmp_path / "mkdocs.yml"
    config.write_text(
        f"INHERIT: {ROOT}/mkdocs.yml\ndocs_dir: {tmp_path}/docs\nhooks: [{ROOT}/docs/site_pages.py]\n"
        f"plugins: {{search: {{}}, mkdocstrings: {{handlers: {{python: {{paths: [{ROOT}]}}}}}}}}\n"
    )
    done = build(tmp_path / "out", config)
    assert done.returncode == 1
    for said in ("'nowhere.md'", "'#nowhere'", "'../zoo/nowhere.py'", "lost.md"):
        assert said in done.stderr, said


def test_links_to_files_of_the_repository_become_links_to_pages():
    site = site_pages.Site.__new__(site_pages.Site)
    site.pages = {"zoo/errors.py": "source/zoo/errors.py.md", "README.md": "index.md", "docs/gpu.md": "gpu.md"}
    site.folders = {"decisions/a.md": "docs/decisions", "index.md": "."}
    text = "[x](../../zoo/errors.py#top) [y](../gpu.md) [z](https://example.org/docs/gpu.md) [here](#top)\n"
    code = "```\n[x](../../zoo/errors.py)\n```\n"
    assert site.rewritten("decisions/a.md", text + code) == (
        "[x](../source/zoo/errors.py.md#top) [y](../gpu.md) [z](https://example.org/docs/gpu.md) [here](#top)\n" + code
    )
    assert site.rewritten("index.md", "[g](docs/gpu.md) ![r](README.md)") == "[g](gpu.md) ![r](index.md)"


def test_public_names_have_docstrings():
    assert sorted(site_pages.without_docstring()) == []


SOURCE = '''"""A module."""
import os
from json import dumps

def good():
    """Has one."""

def bad(): ...

def _private(): ...

class Good:
    """Has one."""

    field: int = 1

    def bad(self): ...

    @property
    def worse(self): ...

class Bad: ...
'''


def test_a_missing_docstring_is_found():
    module = griffe.visit("m", Path("m.py"), SOURCE)
    assert sorted(site_pages.undocumented(module)) == ["m.Bad", "m.Good.bad", "m.Good.worse", "m.bad"]


def test_a_comment_behind_a_field_documents_it():
    source = "class C:\n    a: int = 1  # how many\n    b: str = '#'\n    c: int = 2\n    '''Kept.'''  # not this\n"
    extensions = griffe.load_extensions(field_comments.FieldComments)
    with griffe.temporary_visited_package("m", {"__init__.py": source}, extensions=extensions) as module:
        fields = module["C"].members
    said = {name: member.docstring and member.docstring.value for name, member in fields.items()}
    assert said == {"a": "how many", "b": None, "c": "Kept."}
