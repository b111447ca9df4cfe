"""`zoo plugin list`, `zoo families` and every other command with two dozen broken plugins installed."""

import json

import pytest

from ..fake_plugins import BROKEN, HANGS, install, install_fake_torch, run_zoo

LISTINGS = {
    "plugin list": ("plugin", "list"),
    "plugin list --json": ("plugin", "list", "--json"),
    "families": ("families",),
    "families --json": ("families", "--json"),
    "list": ("list",),
    "list --json": ("list", "--json"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """All broken plugins at once, two that clash, one that takes a name of ours, and one that is good."""
    site = tmp_path_factory.mktemp("site")
    install_fake_torch(site)
    install(site, "good")
    install(site, "clash", families=("disputed",))
    install(site, "rival", families=("disputed",))
    install(site, "diffusion", families=("ddpm",))
    install(site, "thief", families=("ddpm",))
    for name, (source, _) in BROKEN.items():
        install(site, name, source)
    return site


@pytest.fixture(scope="module")
def results(site, home):
    return {name: run_zoo(*args, site=site, home=home) for name, args in LISTINGS.items()}


SAYS = {name: says for name, (_, says) in BROKEN.items()} | {
    "clash": "zoo-clash and zoo-rival both provide the family 'disputed'; remove one of them: pip uninstall zoo-clash",
    "rival": "zoo-rival and zoo-clash both provide the family 'disputed'; remove one of them: pip uninstall zoo-rival",
    "thief": "zoo-thief and zoo-diffusion both provide the family 'ddpm'; remove this one: pip uninstall zoo-thief",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTINGS)
def test_no_command_fails_for_broken_plugins(results, name):
    assert (results[name].returncode, "Traceback" in results[name].stderr) == (0, False)


@pytest.mark.parametrize("name", ["plugin list --json", "families --json", "list --json"])
def test_json_stays_json(results, name):
    assert isinstance(json.loads(results[name].stdout), list | dict)


@pytest.mark.parametrize("name", SAYS)
def test_one_line_names_the_distribution_the_reason_and_the_mend(results, name):
    distribution = f"zoo-{name}"
    [row] = [line for line in results["plugin list"].stdout.splitlines() if line.split()[0] == distribution]
    assert "set aside: " in row
    [note] = [line for line in results["families"].stderr.splitlines() if line.startswith(f"{distribution} 1.0 ")]
    assert note.startswith(f"{distribution} 1.0 is set aside: ")
    [entry] = [e for e in json.loads(results["plugin list --json"].stdout) if e["distribution"] == distribution]
    assert entry["state"] == "set aside"
    for text in (row, note, entry["problem"]):
        assert SAYS[name] in text
        assert "; " in text  # what is wrong; what to do


@pytest.mark.parametrize("name", ["plugin list", "families", "families --json"])
def test_good_plugins_work_on(results, name):
    assert "zoo-good" in results[name].stdout
    assert "ddpm" in results[name].stdout


def test_control_characters_of_a_plugin_do_not_reach_the_terminal(results):
    for result in results.values():
        assert not any(ord(char) < 0x20 and char != "\n" for char in result.stdout + result.stderr)
        assert "\u202e" not in result.stdout + result.stderr


def test_the_list_says_what_a_plugin_brings(results):
    entries = {e["distribution"]: e for e in json.loads(results["plugin list --json"].stdout)}
    good = entries["zoo-good"]
    assert 0 < good.pop("import_seconds") < 10
    assert good == {
        "distribution": "zoo-good",
        "version": "1.0",
        "module": "zoo_good.plugin",
        "contract": 1,
        "families": ["good"],
        "targets": [],
        "hooks": ["describe_family"],
        "registry": None,
        "command": None,
        "state": "ok",
        "problem": "",
    }


def test_families_says_what_a_family_is(results):
    [family] = [f for f in json.loads(results["families --json"].stdout) if f["name"] == "good"]
    assert family == {
        "name": "good",
        "summary": "A family for tests",
        "paper": "https://example.org",
        "presets": {},
        "distribution": "zoo-good",
        "version": "1.0",
    }


@pytest.mark.parametrize("how", ["option", "variable"])
@pytest.mark.parametrize("command", [("plugin", "list"), ("families",), ("list",)])
def test_no_plugins_is_immune(site, home, how, command):
    args = ("--no-plugins", *command) if how == "option" else command
    result = run_zoo(*args, site=site, home=home, **({"ZOO_NO_PLUGINS": "1"} if how == "variable" else {}))
    assert result.returncode == 0
    assert "zoo-" not in result.stdout + result.stderr
    if command != ("list",):
        assert result.stderr == "plugins are off (--no-plugins or ZOO_NO_PLUGINS)\n"


def test_a_plugin_that_hangs_is_named_and_no_command_waits_for_it(tmp_path, home):
    install(tmp_path, "hangs", HANGS)
    result = run_zoo("plugin", "list", site=tmp_path, home=home, ZOO_PLUGIN_SECONDS="1")
    assert result.returncode == 0
    [row] = [line for line in result.stdout.splitlines() if line.startswith("zoo-hangs")]
    assert "set aside: it was not loaded within 1 s; upgrade it (pip install -U zoo-hangs)" in row


def test_a_registry_that_a_distribution_carries_is_listed(tmp_path, home):
    install(tmp_path, "carrier", extra="[zoo.registry]\nmore = zoo_carrier\nlost = zoo_carrier.nowhere\n")
    (tmp_path / "zoo_carrier" / "registry.yaml").write_text("format: 1\nmodels: {}\n")
    result = run_zoo("plugin", "list", "--json", site=tmp_path, home=home)
    registries = {e["registry"]: e for e in json.loads(result.stdout) if e["distribution"] == "zoo-carrier"}
    assert (registries["more"]["state"], registries["lost"]["state"]) == ("ok", "set aside")
    assert registries["lost"]["problem"] == (
        "the package with its registry is missing; reinstall it: pip install --force-reinstall zoo-carrier"
    )
