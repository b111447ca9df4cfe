"""Finding, setting aside, probing and loading, with plugins that are really installed."""

import json
import os
import sys
import zipfile
from importlib import metadata as importlib_metadata
from pathlib import Path
from typing import get_overloads

import pytest

from zoo import hookspecs, plugins
from zoo.errors import NotFoundError, PluginError, UsageError
from zoo.hookspecs import ConfigRequest, DescribeRequest, ImportRequest
from zoo.plugins.finding import Fault, for_author
from zoo.plugins.metadata import entry_points, normalized
from zoo.plugins.probing import ALLOWANCE_SECONDS, _cache_file

from .fake_plugins import BROKEN, DESCRIBE, GOOD, HANGS, HEAD, install, install_fake_torch, run_python


@pytest.fixture(autouse=True)
def site(tmp_path, monkeypatch):
    """A site folder at the head of sys.path, a store of its own, and no module left behind."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ZOO_NO_PLUGINS", raising=False)
    before = set(sys.modules)
    yield site
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(site)):
            del sys.modules[name]


def found(distribution: str) -> plugins.Plugin:
    return next(p for p in plugins.installed() if p.distribution == distribution)


# --- Finding ----------------------------------------------------------------------------------------------------------


def test_installed_reads_metadata_and_imports_nothing(site):
    install(site, "zwei", "raise SystemError\n" + GOOD, families=("eins", "zwei"))
    plugin = found("zoo-zwei")
    assert plugin == plugins.Plugin(
        distribution="zoo-zwei", version="1.0", module="zoo_zwei.plugin", families=("eins", "zwei"), contract=1
    )
    assert "zoo_zwei" not in sys.modules


def test_metadata_that_is_broken_hides_itself_alone(site):
    install(site, "good")
    garbage = site / "garbage-1.0.dist-info"
    garbage.mkdir()
    (garbage / "entry_points.txt").write_bytes(b"[zoo]\n\xff\xfe = x\n")
    (garbage / "METADATA").write_bytes(b"\xff")
    nameless = site / "nameless-1.0.dist-info"
    nameless.mkdir()
    (nameless / "entry_points.txt").write_text("[zoo]\nx = y\n")
    assert found("zoo-good").problem == ""


@pytest.mark.parametrize("group", ["zoo", "zoo.registry", "pytest11", "console_scripts"])
def test_entry_points_are_those_of_importlib_metadata(site, group):
    install(site, "good", extra="# a comment = none\n\n[zoo.registry]\ngood = zoo_good\n")
    distributions = {normalized(d.metadata["Name"]): d for d in reversed(list(importlib_metadata.distributions()))}
    expected = [
        (name, d.version, entry.name, entry.value)
        for name, d in distributions.items()
        for entry in d.entry_points.select(group=group)
    ]
    assert sorted(entry_points(group)) == sorted(expected) and expected


def test_a_zip_archive_on_the_path_holds_plugins_too(site, tmp_path, monkeypatch):
    archive = tmp_path / "plugins.zip"
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("zoo_zipped-2.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: zoo_zipped\nVersion: 2.0\n")
        z.writestr("zoo_zipped-2.0.dist-info/entry_points.txt", "[zoo]\nzipped = zoo_zipped.plugin\n")
    (tmp_path / "no-archive.txt").write_text("text")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "no-archive.txt"), str(archive)])
    assert ("zoo-zipped", "2.0", "zipped", "zoo_zipped.plugin") in list(entry_points("zoo"))


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("no_such_package.plugin", "its module 'no_such_package.plugin' does not exist"),
        ("zoo_good.missing", "its module 'zoo_good.missing' does not exist"),
        ("zoo_good.plugin:main", "its module 'zoo_good.plugin:main' does not exist"),
        ("../evil", "its module '../evil' does not exist"),
        ("math", "its module 'math' does not exist as Python source"),
    ],
)
def test_an_entry_point_that_leads_nowhere_is_a_problem(site, target, says):
    install(site, "good")
    (site / "zoo_good-1.0.dist-info" / "entry_points.txt").write_text(f"[zoo]\ngood = {target}\n")
    assert says in found("zoo-good").problem


def test_a_family_name_that_is_none_is_a_problem(site):
    install(site, "good", families=("Two Words",))
    assert "'Two Words' is not a family name" in found("zoo-good").problem


@pytest.mark.parametrize(
    ("text", "contract"),
    [
        ("ZOO_CONTRACT: int = 1", 1),
        ("ZOO_CONTRACT = True", None),
        ("ZOO_CONTRACT = '1'", None),
        ("if 1:\n    ZOO_CONTRACT = 1", None),
    ],
)
def test_the_contract_is_an_int_at_the_modules_top(site, text, contract):
    install(site, "good", text)
    assert found("zoo-good").contract == contract
    assert bool(found("zoo-good").problem) == (contract is None)


def test_two_distributions_that_make_one_family_are_both_set_aside(site):
    install(site, "first", families=("shared",))
    install(site, "second", families=("shared",))
    for mine, other in (("zoo-first", "zoo-second"), ("zoo-second", "zoo-first")):
        assert found(mine).set_aside == (
            f"{mine} 1.0 is set aside: {mine} and {other} both provide the family 'shared';"
            f" remove one of them: pip uninstall {mine}, or rename the family: its key under"
            " [project.entry-points.zoo] in pyproject.toml, and `name` in describe_family"
        )
    with pytest.raises(PluginError, match="zoo-first and zoo-second both provide the family 'shared'"):
        plugins.load("shared")


@pytest.mark.parametrize(
    ("told", "for_users"),
    [
        ("a and b both provide x; rename the x: its key",
         "a and b both provide x; remove one of them: pip uninstall a, or rename the x: its key"),
        ("its hook f failed: E: e", "its hook f failed: E: e; upgrade it (pip install -U a) or report it"),
        ("it is not a command name", "it is not a command name; remove it (pip uninstall a)"),
        ("it needs the module 'm'", "it needs the module 'm'; reinstall it with its dependencies: pip install a"),
        ("it has no hook; docs/contract.md#f says what it must return",) * 2,
        ("it needs zoo with contract 9; run: pip install -U genzoo",) * 2,
    ],
)  # fmt: skip
def test_an_author_is_not_told_what_users_can_do(told, for_users):
    assert for_author(for_users) == told


def test_our_own_distributions_win_a_name_clash(site):
    install(site, "diffusion", families=("ddpm",))
    install(site, "evil", families=("ddpm",))
    assert found("zoo-diffusion").problem == ""
    assert found("zoo-evil").problem == (
        "zoo-evil and zoo-diffusion both provide the family 'ddpm'; remove this one: pip uninstall zoo-evil, or rename"
        " the family: its key under [project.entry-points.zoo] in pyproject.toml, and `name` in describe_family"
    )
    assert plugins.load("ddpm").plugin.distribution == "zoo-diffusion"


def test_registries_are_found_without_import(site):
    extra = "[zoo.registry]\nmore = zoo_good.models\nlost = zoo_good.nowhere\n"
    install(site, "good", extra=extra)
    (site / "zoo_good" / "models").mkdir()
    (site / "zoo_good" / "models" / "registry.yaml").write_text("format: 1\n")
    lost, more = (r for r in plugins.registries() if r.distribution == "zoo-good")
    assert (more.name, more.folder) == ("more", site / "zoo_good" / "models")
    assert (lost.name, lost.folder) == ("lost", None)
    assert "zoo_good" not in sys.modules


def test_no_plugins_means_none(site, monkeypatch):
    install(site, "good", extra="[zoo.registry]\nmore = zoo_good\n")
    monkeypatch.setenv("ZOO_NO_PLUGINS", "1")
    assert not plugins.enabled()
    assert plugins.installed() == plugins.probe_all() == []
    assert {registry.name for registry in plugins.registries()} <= {"default"}  # zoo's own models are no plugins
    with pytest.raises(PluginError, match="plugins are off"):
        plugins.load("good")


# --- Loading and calling ----------------------------------------------------------------------------------------------


def test_load_imports_one_plugin_only(site):
    install(site, "good")
    install(site, "other")
    loaded = plugins.load("good")
    assert loaded.call("describe_family", DescribeRequest(family="good")).summary == "A family for tests"
    assert "zoo_good.plugin" in sys.modules
    assert "zoo_other" not in sys.modules


def test_load_of_an_unknown_family_suggests_a_near_one(site):
    install(site, "goodness")
    with pytest.raises(NotFoundError, match=r"no installed plugin makes the family 'goodnes'.*did you mean 'goodness'"):
        plugins.load("goodnes")


@pytest.mark.parametrize("name", ["raises", "vanishes", "newer", "misspelt"])
def test_load_of_a_broken_plugin_is_one_line_that_names_it(site, name):
    source, says = BROKEN[name]
    install(site, name, source)
    with pytest.raises(PluginError) as caught:
        plugins.load(name)
    assert str(caught.value).startswith(f"zoo-{name} 1.0 is set aside: ")
    assert says in str(caught.value)


def test_load_sets_aside_what_breaks_only_here(site, capsys):
    """The probe passes, the import in this process does not, and what it prints stays off stdout."""
    install(
        site, "moody", GOOD + "import os\nif 'MOODY' in os.environ:\n    print('spoilt')\n    raise OSError('here')"
    )
    assert plugins.probe(found("zoo-moody")).plugin.problem == ""
    os.environ["MOODY"] = "1"
    try:
        with pytest.raises(PluginError, match=r"set aside: it cannot be imported .*: OSError: here"):
            plugins.load("moody")
    finally:
        del os.environ["MOODY"]
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "spoilt\n")


HOOKS = (
    GOOD
    + """
import sys
from zoo.errors import UsageError

@hookimpl
def validate_config(request):
    match request.config["what"]:
        case "usage": raise UsageError("channels: 0; at least 1")
        case "exit": sys.exit(3)
        case "bug": return deeper(request.config)
        case "interrupt": raise KeyboardInterrupt
        case "none": return None
        case "list": return []
        case _: return dict(request.config)

def deeper(config):
    return config["nothing"]

@hookimpl
def import_checkpoint(request): return None
"""
)


@pytest.mark.parametrize(
    ("what", "error", "says"),
    [
        ("usage", UsageError, "channels: 0; at least 1"),
        ("exit", PluginError, "hook validate_config failed (zoo_hooks/plugin.py:16): SystemExit: 3"),
        ("bug", PluginError, "hook validate_config failed (zoo_hooks/plugin.py:24): KeyError: 'nothing'; upgrade it"),
        ("interrupt", KeyboardInterrupt, ""),
        ("none", PluginError, "hook validate_config returned None; docs/contract.md#validate_config says"),
        ("list", PluginError, "hook validate_config returned a list; docs/contract.md#validate_config says"),
    ],
)
def test_what_a_hook_does_wrong_becomes_one_line(site, what, error, says):
    install(site, "hooks", HOOKS)
    loaded = plugins.load("hooks")
    with pytest.raises(error) as caught:
        loaded.call("validate_config", ConfigRequest(family="hooks", config={"what": what}))
    assert says in str(caught.value)
    if error is PluginError:
        assert str(caught.value).startswith("zoo-hooks 1.0: its hook ")
        assert "\n" not in str(caught.value)


def test_calls_are_typed_as_the_contract_says():
    hooks = {name: hook.__annotations__ for name, hook in vars(hookspecs).items() if hasattr(hook, "zoo_spec")}
    calls = [
        {name: kind.replace("hookspecs.", "") for name, kind in call.__annotations__.items()}
        for call in get_overloads(plugins.Loaded.call)
    ]
    assert calls == [{"hook": f"Literal[{name!r}]", **types} for name, types in hooks.items()]


def test_a_missing_hook_says_which_and_where_to_read(site):
    install(site, "good")
    with pytest.raises(PluginError) as caught:
        plugins.load("good").call("validate_config", ConfigRequest(family="good", config={}))
    assert str(caught.value) == (
        "zoo-good 1.0: it does not implement the hook validate_config;"
        " docs/contract.md#validate_config says what it must return"
    )


def test_import_checkpoint_may_pass(site):
    install(site, "hooks", HOOKS)
    request = ImportRequest(family="hooks", path=Path("x"), tensors={}, config=None)
    assert plugins.load("hooks").call("import_checkpoint", request) is None


# --- Probing ----------------------------------------------------------------------------------------------------------


def probe_of(distribution: str) -> plugins.Probe:
    return plugins.probe(found(distribution))


def test_a_probe_tells_families_hooks_and_time(site):
    install(site, "hooks", HOOKS)
    probe = probe_of("zoo-hooks")
    assert probe.plugin.problem == ""
    assert probe.families["hooks"].paper == "https://example.org"
    assert set(probe.hooks) == {"describe_family", "validate_config", "import_checkpoint"}
    assert 0 < probe.import_seconds < ALLOWANCE_SECONDS
    assert "zoo_hooks" not in sys.modules


def test_a_plugin_that_hangs_is_stopped(site, monkeypatch):
    install(site, "hangs", HANGS)
    monkeypatch.setenv("ZOO_PLUGIN_SECONDS", "1")
    assert probe_of("zoo-hangs").plugin.problem.startswith("it was not loaded within 1 s; upgrade it")


def count_imports(site: Path, name: str) -> None:
    """A plugin that writes a line to `imports` in the site folder each time it is imported."""
    install(site, name, GOOD + f"open({str(site / 'imports')!r}, 'a').write('x')\n")


def test_a_probe_is_cached_until_the_plugin_changes(site):
    count_imports(site, "counts")
    imports, source = site / "imports", site / "zoo_counts" / "plugin.py"
    imports.write_text("")  # the site folder changes here, not between the probes
    assert probe_of("zoo-counts") == probe_of("zoo-counts")
    assert imports.read_text() == "x"
    # An edit that RECORD does not know of, as in an editable install.
    source.write_text(source.read_text() + "\nraise ValueError('edited')")
    assert "edited" in probe_of("zoo-counts").plugin.problem
    record = site / "zoo_counts-1.0.dist-info" / "RECORD"
    record.write_text(record.read_text() + "another,,\n")
    assert "edited" in probe_of("zoo-counts").plugin.problem
    assert imports.read_text() == "xxx"


def test_a_dependency_that_was_installed_since_mends_a_cached_probe(site):
    install(site, "needs", GOOD + "import frobnicate_9001")
    assert "needs the module 'frobnicate_9001'" in probe_of("zoo-needs").plugin.problem
    (site / "frobnicate_9001.py").write_text("")
    assert probe_of("zoo-needs").plugin.problem == ""


@pytest.mark.parametrize("damage", [b"", b"{", b'{"key": "x"}', b"\xff" * 100])
def test_a_damaged_cache_is_read_as_none(site, damage):
    install(site, "good")
    plugin = found("zoo-good")
    _cache_file(plugin).parent.mkdir(parents=True)
    _cache_file(plugin).write_bytes(damage)
    assert plugins.probe(plugin).families.keys() == {"good"}


def test_a_store_that_cannot_be_written_only_costs_time(site, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "file" / "below"))
    install(site, "good")
    assert probe_of("zoo-good").families.keys() == {"good"}


def test_the_probe_ignores_modules_of_the_current_folder(site, tmp_path, monkeypatch):
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / "zoo_good.py").write_text("raise SystemError('from the current folder')")
    (folder / "json.py").write_text("raise SystemError('from the current folder')")
    monkeypatch.chdir(folder)
    install(site, "good")
    assert probe_of("zoo-good").plugin.problem == ""


def test_installed_and_probe_import_nothing_heavy(site, tmp_path):
    install(site, "good")
    install_fake_torch(site)
    code = (
        "import json, sys; from zoo import plugins; plugins.probe_all();"
        "print(json.dumps([m for m in ('torch', 'onnxruntime', 'numpy', 'PIL', 'zoo_good') if m in sys.modules]))"
    )
    result = run_python(code, site=site, home=tmp_path / "home")
    assert (json.loads(result.stdout), result.stderr) == ([], "")


def test_heavy_modules_are_found_also_behind_another_import(site):
    install_fake_torch(site)
    install(site, "heavy", HEAD + "from . import deeper\n" + DESCRIBE)
    (site / "zoo_heavy" / "deeper.py").write_text("import onnxruntime, torch")
    assert "imports torch and onnxruntime while it is loaded" in probe_of("zoo-heavy").plugin.problem


def test_a_reason_is_one_line_whatever_the_plugin_says():
    line = Fault("its module 'a\nb\x1b[2J' does not exist").line("zoo-x")
    assert line.startswith(r"its module 'a\x0ab\x1b[2J' does not exist; upgrade it (pip install -U zoo-x)")
