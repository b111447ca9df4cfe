"""A model's card: the README.md of its bundle, generated only from the manifest."""

import shlex
from collections.abc import Iterable, Sequence

from msgspec import UNSET

from ..formats.manifest import Drift, Manifest, Training
from ..hookspecs import Metric, Port, Task
from ..names import CARD as CARD
from ..ports.count import count_of
from ..ports.kinds import kind_of
from ..text import safe_text


def card(manifest: Manifest) -> str:
    """The card in Markdown: what the model is, its tasks, metrics, training, licence, and how to run it."""
    m = manifest
    parts = [
        f"# {_text(m.name)}",
        _sentence(m.summary),
        f"Version {m.version}, family `{m.family}`"
        + (f" ([paper]({_url(m.paper)}))" if m.paper else "")
        + f". Licence of the weights: {_text(m.license)}."
        + (f" {_text(m.license_note)}" if m.license_note else ""),
        "## Usage",
        _usage(m),
        "## Tasks",
        *(_task(name, task, default=name == m.default_task) for name, task in m.tasks.items()),
    ]
    if m.classes:
        listed = ", ".join(f"{i} {_text(name)}" for i, name in enumerate(m.classes))
        parts += ["## Classes", listed]
    if m.metrics:
        parts += ["## Figures", _metrics(m.metrics)]
    if m.training != Training():
        parts += ["## Training", _training(m.training)]
    parts += ["## Graphs", _graphs(m)]
    return "\n\n".join(parts) + "\n"


def command_line(m: Manifest, model: str) -> str:
    """The `zoo run` of the default task, for a model of this name or in this folder."""
    name, task = m.task(None)
    options = " ".join(
        _option(port_name, port) for port_name, port in task.inputs.items() if port.default is None or port.examples
    )
    forms = (kind_of(port).form for port in task.outputs.values())
    out = next((f"--out out{form.suffixes[0]}" for form in forms if not form.shared), "")  # pictures: one file each
    return " ".join(part for part in ("zoo run", shlex.quote(model), name, options, out) if part)


def _usage(m: Manifest) -> str:
    name, task = m.task(None)
    command = command_line(m, m.name)
    values = ", ".join(f"{port}={port}" for port in task.inputs if task.inputs[port].default is None)
    first = next(iter(task.outputs))
    return (
        f"```sh\n{command}\n```\n\n"
        f'```python\nimport zoo\n\nmodel = zoo.load("{m.name}")\n{first} = model.{name}({values})["{first}"]\n```\n\n'
        f"In Python, a port is an array of the shape in the table. Every task is one graph, `<task>.onnx`, for any "
        f"stack that runs ONNX; `golden.safetensors` contains inputs and the outputs that they must give."
    )


def _option(name: str, port: Port) -> str:
    value = shlex.quote(port.examples[0]) if port.examples else kind_of(port).sample
    return f"--{name.replace('_', '-')} {value}" if value else ""


def _task(name: str, task: Task, *, default: bool) -> str:
    table = _table(
        ("", "port", "kind", "type and shape", "range", "default", "meaning"),
        (
            (
                way,
                f"`{port_name}`",
                port.kind,
                f"`{port.dtype} [{', '.join(map(str, port.shape))}]`",
                _range(port, way),
                _default(port),
                _text(port.summary),
            )
            for way, ports in (("in", task.inputs), ("out", task.outputs))
            for port_name, port in ports.items()
        ),
    )
    return f"### {name}{' (default)' if default else ''}\n\n{_sentence(task.summary)}\n\n{table}"


def _default(port: Port) -> str:
    value = kind_of(port).default(port)
    if value is None:
        return ""
    return f"`{value!r}`" if isinstance(value, str) else _number(value)


def _range(port: Port, way: str) -> str:
    low, high = port.minimum, port.maximum
    parts = []
    if low is not None or high is not None:
        parts.append(f"{'' if low is None else _number(low)} .. {'' if high is None else _number(high)}".strip())
    if port.minimum_size and way == "in":
        parts.append(f"at least {port.minimum_size}x{port.minimum_size}")
    if port.maximum_pixels and way == "in":
        parts.append(f"at most {port.maximum_pixels:,} pixels")
    return ", ".join(parts)


def _metrics(metrics: Iterable[Metric]) -> str:
    metrics = list(metrics)
    table = _table(
        ("figure", "value", "better", "data", "samples", "judge"),
        (
            (
                m.name,
                f"{_number(m.value)} {_text(m.unit)}".strip(),
                m.better,
                _text(m.data),
                f"{m.samples:,}" if m.samples else "",
                _text(m.judge),
            )
            for m in metrics
        ),
    )
    commands = list(dict.fromkeys(m.command for m in metrics if m.command))
    return table + (f"\n\nMeasured with\n\n{_commands(commands)}" if commands else "")


def _training(t: Training) -> str:
    facts = (
        ("data", t.data + (f" ({t.data_license})" if t.data_license else "")),
        ("data SHA-256", t.data_sha256),
        ("steps", f"{t.steps:,}" if t.steps else ""),
        ("pictures seen", f"{t.images_seen:,}" if t.images_seen else ""),
        ("seed", str(t.seed)),
        ("time", f"{t.seconds / 60:.1f} minutes" if t.seconds else ""),
        ("note", t.note),
        ("started from", t.parent),
        ("environment", t.environment),
    )
    listed = "\n".join(f"- {name}: {_text(value)}" for name, value in facts if value)
    return listed + (f"\n\nTrained with\n\n{_commands([t.command])}" if t.command else "")


def _graphs(m: Manifest) -> str:
    tolerances = _table(
        ("precision and provider", "pixels", "floats", "token margin"),
        (
            (
                key,
                f"{t.pixel_share:.1%} within {t.pixel_levels}, none over {t.pixel_levels_worst}",
                f"{_number(t.absolute)} + {_number(t.relative)} of the value"
                + (f"; sound: {_number(t.log_mel)} nats of log-mel distance" if t.log_mel is not UNSET else ""),
                _number(t.token_margin),
            )
            for key, t in m.tolerances.items()
        ),
    )
    checked = f" Checked against torch with {_text(m.export.checked_with)}." if m.export.checked_with else ""
    return (
        f"ONNX opset {m.export.opset}, IR {m.export.ir_version}, {m.export.precision}; weights in safetensors, under "
        f"the names of the torch `state_dict`.{checked} Tolerances:\n\n{tolerances}"
        + "".join(_drift(m.tasks[task], task, curve) for task, curve in m.export.drift.items() if task in m.tasks)
    )


def _drift(task: Task, name: str, curve: Sequence[Drift]) -> str:
    port = count_of(task.inputs) or "rounds"
    rows = ((f"{d.count:,}", _number(d.worst), f"{d.share_equal:.4%}") for d in curve)
    return f"\n\nDrift of `{name}` from torch:\n\n" + _table((port, "largest difference", "equal values"), rows)


def _commands(commands: Sequence[str]) -> str:
    # Indented, not fenced: no text inside can end an indented block.
    return "\n".join("    " + safe_text(command) for command in commands)


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of Markdown cells, without empty columns."""
    cells = [list(row) for row in rows]
    kept = [i for i in range(len(headers)) if any(row[i] for row in cells)]
    lines = [[headers[i] for i in kept], ["---"] * len(kept), *([row[i] for i in kept] for row in cells)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _text(text: str) -> str:
    """Foreign text as Markdown text, in which no markup, table cells or HTML take effect."""
    return "".join(f"\\{c}" if c in "\\|<>[]*#" else c for c in safe_text(text))


def _sentence(text: str) -> str:
    return _text(text.rstrip(".")) + "."


def _url(url: str) -> str:
    return "".join(c for c in safe_text(url) if c not in "()<>\"' ")
