"""The Node host as a module: its types fit the ports, and it takes what JavaScript has."""

import json
import subprocess

import pytest

from tests.cli.commands import zoo
from tests.tiny_tasks import studio

from .hosts import NODE_MODULES, missing_node, need

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    need(missing_node())
    place = tmp_path_factory.mktemp("node")
    done = zoo("export", studio(place / "studio"), "--target", "node", "-o", place / "out")
    assert done.code == 0, done.err
    return place / "out"


CALLS = """
import { run, Tensor } from "./run.mjs";
const { image } = await run("generate", { seed: 7, label: "Sneaker" });
const pixels: Uint8Array = image.data;
const { tokens, size } = await run("encode", { image });
const codes: BigInt64Array = tokens.data;
await run("decode", { tokens, size });
await run("generate", { seed: [1, 2], steps: 3, guidance: [0, 0.1] });
"""

WRONG = {
    "no such task": 'run("paint", {})',
    "no such port": 'run("generate", { seed: 1, sede: 1 })',
    "a port missing": 'run("generate", {})',
    "a name for a number": 'run("generate", { seed: "seven" })',
    "another output": 'run("generate", { seed: 1 }).then((o) => o.tokens)',
}


def types(folder, source):
    (folder / "calls.mts").write_text(source)
    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--skipLibCheck"]
    compiler = str(NODE_MODULES / "typescript" / "bin" / "tsc")
    return subprocess.run(["node", compiler, *options, "calls.mts"], cwd=folder, capture_output=True, text=True)


def test_its_types_take_right_calls_and_refuse_wrong_ones(folder):
    need("" if (NODE_MODULES / "typescript").is_dir() else "typescript")
    done = types(folder, CALLS)
    assert done.returncode == 0, done.stdout
    done = types(folder, CALLS + "".join(f"await {call};\n" for call in WRONG.values()))
    start = len(CALLS.splitlines())
    wrong = {int(line.split("(")[1].split(",")[0]) for line in done.stdout.splitlines() if line.startswith("calls.mts")}
    assert wrong == {start + i + 1 for i in range(len(WRONG))}, done.stdout


def test_it_is_a_module(folder):
    source = """
        import { model, run } from "./run.mjs";
        const { image } = await run("generate", { seed: 5, label: "sneaker" });
        const { tokens, size } = await run("encode", { image });
        const errors = [];
        for (const ports of [{ seed: 1.5 }, { seed: 1, label: "Hat" }, { seed: 2 ** 60 }, { seed: -1 }, { seed: [] }])
          await run("generate", ports).catch((error) => errors.push(`${error.name}: ${error.message}`));
        console.log(JSON.stringify([model.name, image.shape, image.data[0], Array.from(tokens.data, Number), errors]));
    """
    command = ["node", "--input-type=module", "-e", source]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name, shape, pixel, tokens, errors = json.loads(done.stdout)
    assert (name, shape, pixel) == ("studio", [1, 8, 8, 1], 31 * 5 + 7 + 20) and tokens == [pixel // 64] * 4
    assert [error.split(":")[0] for error in errors] == [
        "TypeError",
        "RangeError",
        "TypeError",
        "RangeError",
        "RangeError",
    ]
    assert "label 'Hat' is not a class of this model: Shirt, Sneaker, Ankle boot" in errors[1]
