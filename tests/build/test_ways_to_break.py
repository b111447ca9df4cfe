"""Ways in which authors break a plugin: `zoo plugin check` gives a line that is enough to fix each."""

from dataclasses import dataclass

import pytest

from zoo.cli.plugin import _outcome_rows

from .. import tiny
from .conftest import Fault

MODEL, PLUGIN, PROJECT = "{package}/model.py", "{package}/plugin.py", "pyproject.toml"

FORWARD = "        return to_uint8(self.network(to_float(image)))\n"
LOSS = '        return {"loss": F.mse_loss(self.network(x + DEVIATION * noise), x)}\n'
NOISE = "noise = torch.randn(x.shape, generator=generator).to(x.device)"
CONFIG = "    return msgspec.to_builtins(_config({**found, **request.config}))\n"
OUTPUTS = 'outputs={"denoised": image}'


@dataclass(frozen=True)
class Way:
    check: str
    faults: tuple[Fault, ...]
    says: tuple[str, ...]  # in the line
    exports: bool = False  # so it takes seconds


def computes(*lines: str) -> tuple[Fault, ...]:
    """The task computes this from x, float [batch, channels, height, width]."""
    body = "".join(f"        {line}\n" for line in ("x = self.network(to_float(image))", *lines, "return to_uint8(x)"))
    return ((MODEL, FORWARD, body),)


def loses(line: str) -> tuple[Fault, ...]:
    """The trainer's losses end with this line."""
    return ((MODEL, LOSS, f"        {line}\n"),)


def hook(name: str, *body: str) -> Fault:
    """The plugin has another hook."""
    text = "".join(f"    {line}\n" for line in body)
    return (
        PLUGIN,
        "",
        f"\n\nfrom zoo.hookspecs import Imported, Metric  # noqa\n\n\n@hookimpl\ndef {name}(request):\n{text}",
    )


def command(source: str, name: str = "sharpen") -> tuple[Fault, ...]:
    entry = f'\n[project.entry-points."zoo.commands"]\n{name} = "{{package}}.commands:command"\n'
    return (PROJECT, "", entry), ("{package}/commands.py", "", source)


def brings(registry: str) -> tuple[Fault, ...]:
    entry = '\n[project.entry-points."zoo.registry"]\nmine = "{package}.models"\n'
    return (PROJECT, "", entry), ("{package}/models/registry.yaml", "", registry)


TRAINER_METHOD = "\n\n# --- The task: pixels in, pixels out"


def method(*lines: str) -> tuple[Fault, ...]:
    """The trainer has another method."""
    text = "".join(f"    {line}\n" for line in lines)
    return ((MODEL, TRAINER_METHOD, f"\n{text}{TRAINER_METHOD}"),)


WAYS = {
    # What a graph cannot follow
    "Python's random numbers": Way(
        "exports", computes("import random", "x = x + random.random()"),
        (
            "denoise: the first value that differs: denoised [",
            "denoise: torch gives other outputs when it is called again with the same inputs",
            "denoise: forward draws from Python's random: noise comes from zoo.build.random, with an input of the kind",
        ), exports=True,
    ),
    "Python's random numbers, and inputs that are not in alphabetical order": Way(
        "exports",
        (
            (PLUGIN, 'inputs={"image": image}', 'inputs={"image": image, "amount": Port(kind="scalar", dtype="float32",'
             ' shape=("batch",), default=1, minimum=1, maximum=2)}'),
            (MODEL, "    def forward(self, image: Tensor) -> Tensor:\n" + FORWARD,
             "    def forward(self, image: Tensor, amount: Tensor) -> Tensor:\n        import random\n"
             "        x = self.network(to_float(image)) * amount[:, None, None, None]\n"
             "        return to_uint8(x + random.random())\n"),
        ),
        ("denoise: forward draws from Python's random: ",), exports=True,
    ),
    "NumPy's random numbers": Way(
        "exports", computes("import numpy", "x = x + numpy.random.rand()"),
        ("forward draws from NumPy's global generator",), exports=True,
    ),
    "a module in training mode that counts its calls": Way(
        "exports", computes("self.train()", "self.calls = getattr(self, 'calls', 0) + 1", "x = x + 0.05 * self.calls"),
        (
            "denoise: in training mode, although `eval()` was called: the task's module",
            "denoise: changed by each call, but fixed in the graph: calls",
        ), exports=True,
    ),
    "dropout that is always on": Way(
        "exports", computes("x = F.dropout(x, 0.5)"),
        ("forward draws from torch's global generator: ", "dropout must be an nn.Dropout, which `eval()` turns off"),
        exports=True,
    ),
    "noise of torch's": Way(
        "exports", computes("x = x + torch.rand_like(x)"),
        ("denoise.onnx: uses Random", "noise comes from zoo.build.random, with an input of the kind"), exports=True,
    ),
    "a branch on a value": Way(
        "exports", computes("x = x + 1 if x.mean() > 0 else x"),
        ("use torch.where, or zoo.build.loop.while_loop", "/model.py:"), exports=True,
    ),
    "a loop over a value": Way(
        "exports", computes("for _ in range(int(x.abs().max())):", "    x = x / 2"),
        ("use torch.where, or zoo.build.loop.while_loop", "/model.py:"), exports=True,
    ),
    "an operator past the opset": Way(
        "exports", computes("x = torch.onnx.ops.symbolic('Swish', (x,), dtype=x.dtype, shape=x.shape, version=24)"),
        ("the task 'denoise' uses Swish of opset 24; the targets' runtimes have at most opset 20", "/model.py:"),
        exports=True,
    ),
    "an operator without an ONNX form": Way(
        "exports", computes("x = torch.special.bessel_j0(x)"),
        ("has no ONNX form up to opset 18: use others", "/model.py:"), exports=True,
    ),
    "a buffer that is not saved": Way(
        "round trip",
        (
            (MODEL, "        self.conv_in = ", "        self.register_buffer('x0', torch.rand(()), persistent=False)\n"
             "        self.conv_in = "),
            (MODEL, "        return x - self.conv_out(h)", "        return x - self.conv_out(h) * self.x0"),
        ),
        ("changes denoise.onnx; the weights do not have its non-persistent buffers x0",), exports=True,
    ),
    "an output that is never a number": Way(
        "ports",
        (
            (PLUGIN, OUTPUTS, 'outputs={"denoised": image, "score": Port(kind="scalar", dtype="float32",'
             ' shape=("batch",))}'),
            (MODEL, "    def forward(self, image: Tensor) -> Tensor:\n" + FORWARD,
             "    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:\n"
             "        x = self.network(to_float(image))\n        return to_uint8(x), x.mean((1, 2, 3)) / 0\n"),
        ),
        ("'score' of denoise is NaN or infinite everywhere", "/model.py:"), exports=True,
    ),
    # Ports and config
    "an unknown kind": Way(
        "presets", ((PLUGIN, OUTPUTS, 'outputs={"denoised": Port(kind="heat", dtype="float32", shape=("batch",))}'),),
        (
            "the port 'denoised' of denoise: there is no kind 'heat'; the kinds are image, mask, tokens, size, label,",
            "tensor, map", "docs/contract.md#list_tasks",
        ),
    ),
    "another shape than the kind has": Way(
        "presets",
        ((PLUGIN, OUTPUTS, 'outputs={"denoised": Port(kind="scalar", dtype="float32", shape=("batch", 2))}'),),
        ("the port 'denoised' of denoise: ports of the kind scalar have the shape [batch], not [batch, 2]",),
    ),
    "a config that cannot be written": Way(
        "presets", ((PLUGIN, CONFIG, CONFIG.rstrip() + ' | {"sizes": {1, 2}}\n'),),
        ("its config cannot be written to a manifest: sizes is a set; a config has only dicts",),
    ),
    "a config that changes again": Way(
        "presets", ((PLUGIN, CONFIG, "    config = msgspec.to_builtins(_config({**found, **request.config}))\n"
                     '    return config | {"hidden_channels": config["hidden_channels"] * 2}\n'),),
        ("validating a complete config again must change nothing: hidden_channels was 64 and is 128",),
    ),
    "a hook that raises": Way(
        "builds", ((PLUGIN, "    from .model import {title}\n\n    return", "    1 / 0\n    return"),),
        ("its hook build_module failed (", "/plugin.py:", "ZeroDivisionError: division by zero"),
    ),
    # Training
    "no losses": Way(
        "training", loses("return None"),
        ("the trainer's losses returned None; it must return the losses by name, {'loss': …}", "/model.py:"),
    ),
    "a loss without a name": Way(
        "training", loses("return F.mse_loss(self.network(x), x)"),
        ("the trainer's losses returned a Tensor; it must return the losses by name",),
    ),
    "a loss for each picture": Way(
        "training", loses('return {"loss": (self.network(x) - x).square().mean((1, 2, 3))}'),
        ("the loss 'loss' of the trainer's losses has the shape [8]; it must be a single number: take its mean",),
    ),
    "a loss without a gradient": Way(
        "training", loses('return {"loss": F.mse_loss(self.network(x), x).detach()}'),
        ("the first loss of the trainer's losses, 'loss', has no gradient",),
    ),
    "randomness besides the generator": Way(
        "resuming", ((MODEL, NOISE, "noise = torch.full_like(x, __import__('random').random())"),),
        ("two trainings of 2 steps with the same generators differ, in conv_in.weight", "from the generator"),
    ),
    "a state without the optimiser": Way(
        "resuming",
        method(
            "def load_state_dict(self, state):", "    self.module.load_state_dict(state['module'])",
            "    self.average.module.load_state_dict(state['average'])",
        ),
        ("a training resumed after 1 of 2 steps differs from one without a break, in conv_in", "load_state_dict"),
    ),
    "a state that cannot be written": Way(
        "resuming", method("def state_dict(self):", "    return super().state_dict() | {'seen': {1, 2}}"),
        ("TypeError: a trainer's state may contain tensors, dicts, lists and plain values; /seen is a",),
    ),
    # What else a plugin brings
    "metrics that fail": Way(
        "measure", (hook("measure", "return [1 / 0]"),),
        ("its hook measure failed (", "/plugin.py:", "ZeroDivisionError"), exports=True,
    ),
    "metrics of another type": Way(
        "measure", (hook("measure", "return [{'psnr': 30}]"),),
        ("measure returned a list with a dict; it must be a list of Metric", "#measure"), exports=True,
    ),
    "a metric that cannot be written": Way(
        "measure", (hook("measure", "return [Metric(name='Mean Error', value=1)]"),),
        ("the metric 'Mean Error' cannot be written in a manifest",), exports=True,
    ),
    "an importer that fails on other layouts": Way(
        "importer", (hook("import_checkpoint", "return {'conv_in.weight': request.tensors['stem.weight']}"),),
        (
            "given a file without any of its tensors", "KeyError: 'stem.weight'", "/plugin.py:",
            "return None for another layout, or raise an InvalidFileError",
        ),
    ),
    "an import that does not fit the model": Way(
        "importer",
        (hook("import_checkpoint", "return Imported(layout='x', config={}, state_dict=request.tensors)"),),
        ("given a file without any of its tensors, what it imports does not fit build_module", "conv_in.bias is"),
    ),
    "a command that cannot be imported": Way(
        "commands", command("import frobnicate_9000\n"),
        ("'sharpen' cannot be imported from ", "No module named 'frobnicate_9000'", "/commands.py:1"),
    ),
    "a command that is not one": Way(
        "commands", command("command = 3\n"), ("the command 'sharpen', ", ".commands:command, is not a click command"),
    ),
    "a command with a name of zoo's": Way(
        "commands", command("command = 3\n", "run"),
        ("zoo itself has the command 'run'", "; rename the command: its key under [project.entry-points."),
    ),
    "a registry that cannot be read": Way(
        "registry", brings("format: 1\nmodels: {model: 3}\n"), ("its registry 'mine': ", "registry.yaml:2: models.mod"),
    ),
    "a registry that is missing": Way(
        "registry", brings("")[:1], ("the package of its registry 'mine' does not exist",),
    ),
}  # fmt: skip


def examine(make_plugin, way: Way):
    examination = make_plugin(*way.faults)
    family = examination.subject.family
    return family, examination.outcome(way.check)


@pytest.mark.parametrize("name", [name for name, way in WAYS.items() if not way.exports])
def test_a_broken_plugin_gives_a_line_that_is_enough(make_plugin, name):
    _check(*examine(make_plugin, WAYS[name]), WAYS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, way in WAYS.items() if way.exports])
def test_a_broken_graph_gives_lines_that_are_enough(make_plugin, name):
    _check(*examine(make_plugin, WAYS[name]), WAYS[name])


def _check(family, outcome, way):
    assert outcome.verdict == "fail", outcome.line
    missing = [text for text in way.says if text not in outcome.line]
    assert not missing, outcome.line
    # It is for the author, who cannot upgrade or report the plugin.
    assert "its author" not in outcome.line and "pip install -U zoo-" not in outcome.line
    assert "\\x0a" not in "".join(row[-1] for row in _outcome_rows(outcome))


def test_a_family_of_colour_pictures_is_examined_with_such(make_plugin):
    refused = """    if request.data and request.data.channels != 3:
        raise UsageError("the pictures are grey: give --channels 3")
"""
    fault = (PLUGIN, CONFIG, refused + CONFIG), (PLUGIN, "", "\n\nfrom zoo.errors import UsageError  # noqa\n")
    examination = make_plugin(*fault)
    assert examination.outcome("presets").verdict == "pass"
    assert examination.outcome("config errors").verdict == "pass"


def test_a_reason_of_several_lines_is_printed_in_lines(make_plugin):
    outcome = make_plugin().outcome("loads")
    rows = _outcome_rows(type(outcome)(family="f", check="c", verdict="fail", why="one\ntwo", where="m.py:3"))
    assert rows == [("f", "c", "fail", "one"), ("", "", "", "  two; m.py:3")]


@pytest.mark.parametrize("damaged", [False, True])
def test_the_models_in_its_registry_are_checked(make_plugin, tmp_path, damaged):
    examination = make_plugin(*brings("format: 1\nmodels: {}\n"))
    folder = tmp_path / "plugin" / f"zoo_{examination.subject.family}" / "models"
    tiny.registry(folder, tiny.bundle(tmp_path / "tiny"))
    if damaged:
        (folder / "models" / "tiny" / "1" / "README.md").write_text("other text")
    outcome = examination.outcome("registry")
    if damaged:
        assert outcome.verdict == "fail", outcome.line
        assert outcome.why.startswith("tiny:1 of its registry 'mine': README.md")
    else:
        assert (outcome.verdict, outcome.why) == ("pass", "mine/tiny:1")


@pytest.mark.slow
def test_a_scalar_without_a_batch_is_possible(make_plugin):
    """One number for all pictures: a kind's shape rule allows it, so the golden cases must, too."""
    port = 'Port(kind="scalar", dtype="float32", shape=())'
    sound = "def forward(self, image: Tensor) -> Tensor:\n" + FORWARD
    fault = "def forward(self, image, gain):\n        return to_uint8(self.network(to_float(image)) * gain / 9)\n"
    faults = (PLUGIN, 'inputs={"image": image}', f'inputs={{"image": image, "gain": {port}}}'), (MODEL, sound, fault)
    outcome = make_plugin(*faults).outcome("exports")
    assert outcome.verdict == "pass", outcome.line
