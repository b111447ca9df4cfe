"""The files in docs/deploy: their options are those of `zoo serve`, and what can be checked without their programs."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from zoo.cli.serve import command

FOLDER = Path(__file__).parents[1] / "docs" / "deploy"
KUBERNETES, KSERVE = (list(yaml.safe_load_all((FOLDER / f"{n}.yaml").read_text())) for n in ("kubernetes", "kserve"))
UNIT = (FOLDER / "zoo-serve.service").read_text()
CONTAINER = (FOLDER / "Containerfile").read_text()
LONGEST = 600  # seconds of a call, as the files say


def of_unit(name):
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


def of_container(name):
    return re.findall(rf"^{name} (.*)$", CONTAINER, re.MULTILINE)


ENTRYPOINT = json.loads(of_container("ENTRYPOINT")[0])
POD = KUBERNETES[0]["spec"]["template"]["spec"]
CONTAINERS = {"kubernetes": POD["containers"][0], "kserve": KSERVE[0]["spec"]["containers"][0]}
CALLS = {
    "container": [*ENTRYPOINT, *json.loads(of_container("CMD")[0])],
    "systemd": shlex.split(of_unit("ExecStart")[0]),
    **{name: [*ENTRYPOINT, *container["args"]] for name, container in CONTAINERS.items()},
}


@pytest.mark.parametrize("name", CALLS)
def test_zoo_serve_takes_its_options(name):
    program, serve, *words = CALLS[name]
    assert (Path(program).name, serve) == ("zoo", "serve")
    found = command.make_context("serve", words).params
    assert found["models"] and found["port"] == 8000
    assert found["host"] == ("127.0.0.1" if name == "systemd" else "0.0.0.0")
    assert found["seconds"] == LONGEST


def test_they_stop_later_than_the_longest_call():
    assert int(of_unit("TimeoutStopSec")[0]) > LONGEST and of_unit("KillMode") == ["mixed"]
    assert POD["terminationGracePeriodSeconds"] > LONGEST
    assert int(re.search(r"proxy_read_timeout (\d+)s", (FOLDER / "nginx.conf").read_text())[1]) > LONGEST
    assert of_container("STOPSIGNAL") == ["SIGTERM"]


@pytest.mark.parametrize("name", CONTAINERS)
def test_probes_are_addresses_that_need_no_key(name):
    from zoo.run.serve.app import OPEN

    container = CONTAINERS[name]
    ports = {port.get("name", port["containerPort"]) for port in container["ports"]}
    for kind, path in (("startupProbe", "/v2/health/live"), ("readinessProbe", "/v2/health/ready")):
        probe = container[kind]["httpGet"]
        assert probe["path"] == path in OPEN and probe["port"] in ports
    assert any(path in json.loads(of_container("HEALTHCHECK --start-period=60s CMD")[0])[2] for path in OPEN)


def test_the_manifests_fit_together():
    deployment, service = KUBERNETES
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    container = CONTAINERS["kubernetes"]
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in POD["volumes"]}
    assert str(POD["securityContext"]["runAsUser"]) == of_container("USER")[0]
    stores = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == "store"]
    assert stores == of_container("VOLUME") and f"ZOO_HOME={stores[0]} " in CONTAINER
    runtime, model = (one["spec"] for one in KSERVE)
    asked = model["predictor"]["model"]
    assert asked["protocolVersion"] in runtime["protocolVersions"] and asked["runtime"] == KSERVE[0]["metadata"]["name"]
    assert asked["modelFormat"]["name"] in {one["name"] for one in runtime["supportedModelFormats"]}


def test_the_container_installs_what_there_is():
    import tomllib

    root = FOLDER.parents[1]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"serve", "cpu", "cuda"} <= extras.keys() and '".[serve,$RUNTIME]"' in CONTAINER
    models = re.search(r'^ARG MODELS="(.*)"$', CONTAINER, re.MULTILINE)[1].split()
    assert models and all((root / "models" / name / "pyproject.toml").is_file() for name in models)


@pytest.mark.slow
def test_systemd_accepts_the_unit_and_finds_it_hardened(tmp_path):
    program = shutil.which("systemd-analyze")
    if not program:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "zoo-serve.service"
    unit.write_text(UNIT.replace("/opt/zoo/bin/zoo", sys.executable))
    verified = subprocess.run([program, "verify", "--man=no", unit], capture_output=True, text=True, env=os.environ)
    said = [line for line in verified.stderr.splitlines() if unit.name in line]
    assert not said, said
    # 0 is the least exposed, 10 the most.
    security = [program, "security", "--offline=true", "--threshold=20", str(unit)]
    found = subprocess.run(security, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
