"""The card that stands beside a model."""

import msgspec
import pytest

from tests import tiny
from zoo.build.card import card
from zoo.formats import manifest as manifests
from zoo.formats.manifest import Training
from zoo.hookspecs import Metric, Port

CARD = """\
# tiny

Doubles every pixel.

Version 1, family `tiny`. Licence of the weights: Apache-2.0.

## Usage

```sh
zoo run tiny double --image picture.png --out out.png
```

```python
import zoo

model = zoo.load("tiny")
doubled = model.double(image=image)["doubled"]
```

In Python, a port is an array of the shape in the table. Every task is one graph, `<task>.onnx`, for any stack \
that runs ONNX; `golden.safetensors` contains inputs and the outputs that they must give.

## Tasks

### double (default)

Doubles every pixel.

|  | port | kind | type and shape | range |
| --- | --- | --- | --- | --- |
| in | `image` | image | `uint8 [batch, height, width, 1]` | at least 1x1 |
| out | `doubled` | image | `uint8 [batch, height, width, 1]` |  |

## Graphs

ONNX opset 17, IR 8, float32; weights in safetensors, under the names of the torch `state_dict`. Tolerances:

| precision and provider | pixels | floats | token margin |
| --- | --- | --- | --- |
| float32/cpu | 99.9% within 1, none over 2 | 0.0001 + 0.0001 of the value | 0.001 |
| float32/cuda | 99.9% within 1, none over 2 | 0.0001 + 0.0001 of the value | 0.001 |
"""


@pytest.fixture
def manifest(tmp_path):
    return manifests.read(tiny.bundle(tmp_path / "bundle"))


def test_the_whole_card(manifest):
    assert card(manifest) == CARD


def test_figures_with_the_commands_that_measured_them(manifest):
    command = "zoo eval tiny --data fashion"
    metrics = (
        Metric(
            name="psnr",
            value=23.456789,
            unit="dB",
            better="higher",
            data="fashion test",
            samples=10000,
            command=command,
        ),
        Metric(name="perplexity", value=300.0, command=command),
    )
    text = card(msgspec.structs.replace(manifest, metrics=metrics))
    assert "| psnr | 23.4568 dB | higher | fashion test | 10,000 |\n| perplexity | 300 |  |  |  |" in text
    assert text.count(f"    {command}\n") == 1


def test_classes_training_and_licence(manifest):
    training = Training(
        command="zoo train tiny --data d", data="mnist", data_license="CC-BY-SA-3.0", steps=3000, images_seen=384000,
        seconds=90, environment="torch 2.15",
    )  # fmt: skip
    changed = msgspec.structs.replace(
        manifest,
        classes=("cat", "dog"),
        training=training,
        license_note="See the data's",
        paper="https://example.org/a",
    )
    text = card(changed)
    assert "0 cat, 1 dog" in text and "([paper](https://example.org/a))" in text and "See the data's" in text
    for line in ("- data: mnist (CC-BY-SA-3.0)", "- steps: 3,000", "- pictures seen: 384,000", "- time: 1.5 minutes"):
        assert line + "\n" in text
    assert "Trained with\n\n    zoo train tiny --data d" in text


def test_ports_with_range_default_and_meaning(manifest):
    import msgspec

    inputs = {
        "label": Port(kind="label", dtype="int64", shape=("batch",), minimum=-1, maximum=9, summary="class, -1: none"),
        "steps": Port(kind="count", dtype="int64", shape=(), default=50, minimum=1, maximum=1000),
    }
    task = msgspec.structs.replace(manifest.tasks["double"], inputs=inputs)
    text = card(msgspec.structs.replace(manifest, tasks={"double": task}))
    assert "| in | `label` | label | `int64 [batch]` | -1 .. 9 |  | class, -1: none |" in text
    assert "| in | `steps` | count | `int64 []` | 1 .. 1,000 | 50 |  |" in text
    assert "zoo run tiny double --label 0 --out out.png" in text


def test_foreign_text_stays_text(manifest):
    evil = "<script>alert(1)</script> | [x](javascript:y) \x1b[2J\u202e"
    text = card(
        msgspec.structs.replace(
            manifest,
            summary=evil,
            paper="https://a.org/)<b>",
            classes=(evil,),
            metrics=(Metric(name="psnr", value=1, data=evil, unit="<b>", judge=evil, command="a\n```\n<b>"),),
            training=Training(data=evil),
        )
    )
    assert "\x1b" not in text and "\u202e" not in text and "](javascript" not in text.replace("\\](", "")
    unescaped = [i for i, c in enumerate(text) if c == "<" and text[i - 1] != "\\"]
    assert all(text[i:].startswith("<task>") or "    a" in text[i - 20 : i] for i in unescaped)
