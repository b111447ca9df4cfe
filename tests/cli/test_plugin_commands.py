"""Commands of the CLI that plugins bring, as entry points `zoo.commands`."""

import json

import pytest

from ..fake_plugins import GOOD, install, run_zoo

COMMANDS = """
import click
from zoo.errors import UsageError

@click.group()
def command():
    "Commands for tests."

@command.command()
@click.option("--how")
def work(how):
    if how == "bug":
        return [][1]
    if how == "usage":
        raise UsageError("that is no way to work")
    click.echo("worked")

number = 7
"""


def bring(site, name, *, command="", target="", source=COMMANDS, distribution="", plugin=GOOD):
    """A distribution that brings a command, beside a family."""
    distribution = distribution or f"zoo-{name}"
    package = distribution.replace("-", "_")
    entry = f"[zoo.commands]\n{command or name} = {target or package + '.commands:command'}\n"
    install(site, name, plugin, distribution=distribution, extra=entry)
    (site / package / "commands.py").write_text(source)


@pytest.fixture
def zoo(tmp_path):
    def call(*args, **env):
        return run_zoo(*args, site=tmp_path, home=tmp_path / "home", **env)

    return call


def test_a_command_runs_and_is_listed(tmp_path, zoo):
    bring(tmp_path, "helpful")
    assert zoo("helpful", "work").stdout == "worked\n"
    assert "Commands of plugins:\n  helpful  from zoo-helpful 1.0\n" in zoo("--help").stdout
    assert "Commands for tests." in zoo("helpful", "--help").stdout
    rows = json.loads(zoo("plugin", "list", "--json").stdout)
    [row] = [row for row in rows if row["command"] and row["distribution"] == "zoo-helpful"]
    assert (row["command"], row["state"]) == ("helpful", "ok")
    assert "command helpful" in zoo("plugin", "list").stdout


def test_nothing_of_it_is_imported_before_it_is_called(tmp_path, zoo):
    bring(tmp_path, "helpful", source="raise ValueError('imported')")
    for args in (("--help",), ("list",), ("plugin", "list"), ("families",)):
        done = zoo(*args)
        assert (done.returncode, "imported" in done.stdout + done.stderr) == (0, False)


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        ("usage", 2, "Error: that is no way to work\n"),
        ("bug", 9, "Error: zoo-helpful 1.0: its command 'helpful' failed (zoo_helpful/commands.py:13): IndexError: "),
    ],
)
def test_what_goes_wrong_in_a_command_is_one_line(tmp_path, zoo, how, code, says):
    bring(tmp_path, "helpful")
    done = zoo("helpful", "work", "--how", how)
    assert done.returncode == code
    assert done.stderr.startswith(says) and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"source": "raise ValueError('boom')"}, "failed (zoo_helpful/commands.py:1): ValueError: boom; upgrade it"),
        ({"source": "import sys; sys.exit(0)"}, "failed (zoo_helpful/commands.py:1): SystemExit"),
        ({"target": "zoo_helpful.commands:number"}, "zoo_helpful.commands:number is a int, not a click command"),
        ({"target": "zoo_helpful.commands:nothing"}, "AttributeError: module 'zoo_helpful.commands' has no attribute"),
        ({"plugin": GOOD.replace("CONTRACT = 1", "CONTRACT = 99")}, "is set aside: it needs zoo with contract 99"),
    ],
)
def test_a_command_that_cannot_be_had_is_one_line(tmp_path, zoo, change, says):
    bring(tmp_path, "helpful", **change)
    done = zoo("helpful", "work")
    assert (done.returncode, done.stdout) == (9, "")
    assert done.stderr.startswith("Error: zoo-helpful 1.0") and done.stderr.count("\n") == 1
    assert says in done.stderr


def test_our_own_commands_win(tmp_path, zoo):
    bring(tmp_path, "thief", command="families")
    assert "name" in zoo("families").stdout
    says = "zoo itself has the command 'families', which zoo-thief also provides; remove it (pip uninstall zoo-thief)"
    assert says in zoo("plugin", "list").stdout


def test_of_two_commands_with_one_name_neither_runs(tmp_path, zoo):
    bring(tmp_path, "one", command="same")
    bring(tmp_path, "two", command="same")
    done = zoo("same", "work")
    assert (done.returncode, done.stderr.count("\n")) == (9, 1)
    assert "zoo-two and zoo-one both provide the command 'same'" in done.stderr
    listed = zoo("plugin", "list").stdout
    assert "zoo-one and zoo-two both provide the command 'same'" in listed
    assert "zoo-two and zoo-one both provide the command 'same'" in listed
    assert "from zoo-one" not in zoo("--help").stdout


def test_a_misspelt_command_suggests_one_of_a_plugin(tmp_path, zoo):
    bring(tmp_path, "helpful")
    done = zoo("helpfull")
    assert (done.returncode, done.stderr) == (2, "Error: there is no command 'helpfull'; did you mean 'helpful'?\n")


@pytest.mark.parametrize("how", ["option", "variable"])
def test_without_plugins_there_are_none(tmp_path, zoo, how):
    bring(tmp_path, "helpful")
    args = ("--no-plugins",) if how == "option" else ()
    env = {"ZOO_NO_PLUGINS": "1"} if how == "variable" else {}
    done = zoo(*args, "helpful", "work", **env)
    assert (done.returncode, done.stderr) == (2, "Error: there is no command 'helpful'; `zoo --help` lists them\n")


@pytest.mark.parametrize("target", ["zoo_helpful.commands", "zoo_helpful:a:b", "../x:y", ":x"])
def test_an_entry_that_is_no_place_is_named(tmp_path, zoo, target):
    bring(tmp_path, "helpful", target=target)
    assert "its command 'helpful' must be given as module:attribute" in zoo("plugin", "list").stdout
    assert zoo("list").returncode == 0
