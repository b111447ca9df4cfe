"""The contract grows and breaks nobody: docs/decisions/0007-contract-versions.md, as tests."""

import json
import shutil
import sys
from importlib import import_module
from pathlib import Path

import msgspec
import pytest

from zoo.build.conformance import CHECKS, Examination, Subject
from zoo.errors import PluginError
from zoo.hookspecs import CHANGES, CONTRACT_VERSION, OLDEST_CONTRACT
from zoo.plugins import api, in_folder, load_from, probe

from ..cli.commands import zoo as run_cli

HERE = Path(__file__).parent
VERSIONS = {int(path.stem): json.loads(path.read_text()) for path in (HERE / "versions").glob("*.json")}


def now():
    contract = api.describe()
    hooks = {hook.name: [hook.request, hook.answer] for hook in contract.hooks}
    return {"hooks": hooks, "types": contract.types}


def broken(before: dict, after: dict) -> list[str]:
    """What a plugin that was written for `before` would miss in `after`, or has to do there besides."""
    wrong = [f"hook {name}" for name, types in before["hooks"].items() if after["hooks"].get(name) != types]
    for name, members in before["types"].items():
        has = after["types"].get(name, {})
        wrong += [f"{name}.{member}" for member, kind in members.items() if has.get(member) != kind]
        asked = [member for member in has if not member.endswith("?") and member not in members]
        # What zoo hands to a plugin may grow as it likes; what a plugin makes itself may not ask for more.
        wrong += [f"{name}.{member} is new and has no default" for member in asked if not name.endswith("Request")]
    return wrong


@pytest.mark.parametrize("version", range(OLDEST_CONTRACT, CONTRACT_VERSION + 1))
def test_what_a_supported_version_had_is_still_there(version):
    assert broken(VERSIONS[version], now()) == []


def test_what_is_new_has_a_version():
    assert list(CHANGES) == list(range(1, CONTRACT_VERSION + 1)) and all(CHANGES.values())
    path = f"tests/contract/versions/{CONTRACT_VERSION}.json"
    assert now() == VERSIONS[CONTRACT_VERSION], (
        "the contract changed: say what is new in CHANGES, under a new CONTRACT_VERSION if this one was released, then"
        f" run `python -m tests.contract.test_versions > {path}`"
    )


def test_breaches_are_seen():
    before, after = VERSIONS[1], json.loads(json.dumps(VERSIONS[1]))
    del after["hooks"]["measure"]
    after["types"]["Port"]["kind"] = "int"
    after["types"]["BuildRequest"]["device"] = "torch.device"
    after["types"]["Metric"]["source"] = "str"
    del after["types"]["Preset"]
    assert broken(before, after) == [
        "hook measure",
        "Port.kind",
        "Preset.summary",
        "Preset.config",
        "Preset.training?",
        "Metric.source is new and has no default",
    ]


@pytest.mark.parametrize(
    "module, names",
    [
        ("zoo.media", ["shown_name", "check_masks", "decode_png"]),
        ("zoo.graph.compatibility", ["graphs_of", "nodes_of", "weight_files", "report_on", "running_parts"]),
    ],
)
def test_a_public_name_that_moved_works_with_a_warning(module, names):
    for name in names:
        with pytest.warns(DeprecationWarning, match=rf"{module}\.{name} is now zoo\.[\w.]+\.{name}"):
            assert callable(getattr(import_module(module), name))
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'nothing'"):
        import_module(module).nothing  # noqa: B018 - raises


@pytest.fixture
def old_plugin(tmp_path, monkeypatch):
    """The kept plugin: text of the time of contract 1, which no later change may touch."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    for name in [name for name in sys.modules if name.startswith("zoo_softener")]:
        monkeypatch.delitem(sys.modules, name)
    return shutil.copytree(HERE / "plugin_of_contract_1", tmp_path / "plugin")


@pytest.mark.slow
def test_a_plugin_of_contract_1_works(old_plugin, tmp_path):
    [plugin] = in_folder(old_plugin)
    assert (plugin.contract, plugin.problem) == (1, "")
    examination = Examination(Subject("softener", plugin, tmp_path / "bundles"))
    outcomes = [examination.outcome(check.name) for check in CHECKS]
    assert [(outcome.check, outcome.line) for outcome in outcomes if outcome.verdict != "pass"] == []


@pytest.mark.parametrize(
    ("contract", "says"),
    [
        (CONTRACT_VERSION + 1, f"this zoo has {CONTRACT_VERSION}; run: pip install -U genzoo"),
        (
            OLDEST_CONTRACT - 1,
            f"zoo supports {OLDEST_CONTRACT} and newer; upgrade the plugin: pip install -U zoo-",
        ),
    ],
)
def test_a_plugin_of_another_contract_is_set_aside_with_what_to_upgrade(old_plugin, contract, says):
    module = old_plugin / "zoo_softener" / "plugin.py"
    text = module.read_text().replace("ZOO_CONTRACT = 1", f"ZOO_CONTRACT = {contract}")
    module.write_text(text + "\nraise SystemExit('it was imported')\n")
    [plugin] = in_folder(old_plugin)
    assert says in plugin.problem
    with pytest.raises(PluginError) as caught:
        load_from(probe(plugin).plugin, "softener")
    assert str(caught.value).startswith("zoo-softener 1.0 is set aside: ") and says in str(caught.value)


def test_the_api_prints_hooks_types_and_changes():
    printed = run_cli("plugin", "api").out
    assert printed.startswith(f"contract {CONTRACT_VERSION}; plugins written for {OLDEST_CONTRACT} and newer work\n")
    assert all(name in printed for name in ("build_task", "TrainRequest", "zoo.commands", "zoo.build.random"))
    assert all(line in printed for lines in CHANGES.values() for line in lines)
    as_json = json.loads(run_cli("plugin", "api", "--json").out)
    assert as_json == json.loads(msgspec.json.encode(api.describe()))


if __name__ == "__main__":
    print(json.dumps(now(), indent=2))
