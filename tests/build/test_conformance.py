"""The conformance kit finds what it is for: a new plugin passes, and each fault fails its own check."""

import pytest

from zoo.build.conformance import CHECKS

from .test_ways_to_break import WAYS

# check: (template, file, what stands there, the fault, what the finding says, where, what to read)
MODEL, PLUGIN, PROJECT = "{package}/model.py", "{package}/plugin.py", "pyproject.toml"
FORWARD = "        return to_uint8(self.network(to_float(image)))\n"
FAULTS = {
    "a slow import": (
        "loads", "minimal", PLUGIN, "import msgspec\n",
        "import msgspec\nimport time\nwhile time.process_time() < 1.5: pass\n",
        "at most 1 s are allowed", "", "docs/contract.md",
    ),
    "torch at the top": (
        "loads", "minimal", PLUGIN, "import msgspec\n", "import msgspec\nimport torch\n",
        "imports torch while it is loaded", "", "docs/contract.md",
    ),
    "a newer contract": (
        "loads", "minimal", PLUGIN, "ZOO_CONTRACT = ", "ZOO_CONTRACT = 9", "pip install -U genzoo", "",
        "docs/contract.md",
    ),
    "a missing hook": (
        "contract", "minimal", PLUGIN, "@hookimpl\ndef build_task(", "def _build_task(",
        "does not implement the hook build_task", "", "docs/contract.md#build_task",
    ),
    "no licence": (
        "family", "minimal", PROJECT, 'license = "Apache-2.0"\n', "",
        "names no licence", "", "docs/writing-a-plugin.md",
    ),
    "a preset out of range": (
        "presets", "minimal", PLUGIN, '"hidden_channels": 4}', '"hidden_channels": 0}',
        "hidden_channels is 0; it must be a whole number from 1 to 1024", "", "docs/contract.md",
    ),
    "a preset that cannot train": (
        "presets", "minimal", PLUGIN, '"batch_size": 8, ', "",
        "batch_size is missing", "plugin.py:", "docs/contract.md#describe_family",
    ),
    "a default that is no task": (
        "presets", "minimal", PLUGIN, 'default="denoise"', 'default="paint"',
        "the default task 'paint' is not one of denoise", "plugin.py:", "docs/contract.md#list_tasks",
    ),
    "a misspelt field is taken": (
        "config errors", "minimal", PLUGIN, "kw_only=True, forbid_unknown_fields=True", "kw_only=True",
        "no_such_field = 1 was accepted", "plugin.py:", "docs/contract.md#validate_config",
    ),
    "a copied weight": (
        "builds", "minimal", MODEL, "        self.network = network\n",
        "        import copy\n\n        self.network = copy.deepcopy(network)\n",
        "conv_in.weight of denoise is a copy", "model.py:", "docs/contract.md#build_task",
    ),
    "another type than the port's": (
        "exports", "minimal", MODEL, FORWARD, "        return self.network(to_float(image)).permute(0, 2, 3, 1)\n",
        "'denoised' of 'denoise' is float32; its port says uint8", "model.py:", "docs/contract.md#build_task",
    ),
    "an error while it is traced": (
        "exports", "minimal", MODEL, FORWARD, "        raise ValueError('no such thing')\n",
        "torch cannot trace the task 'denoise': no such thing", "model.py:", "docs/contract.md#build_task",
    ),
    "noise from torch": (
        "exports", "minimal", MODEL, FORWARD,
        "        x = to_float(image)\n        return to_uint8(x + torch.randn_like(x))\n",
        "uses Random", "model.py:", "docs/contract.md",
    ),
    "values out of the port's range": (
        "ports", "minimal", PLUGIN, 'outputs={"denoised": image}',
        'outputs={"denoised": Port(kind="image", dtype="uint8", shape=image.shape, maximum=10)}',
        "its port says None to 10", "model.py:", "docs/contract.md#list_tasks",
    ),
    "torch that changes": (
        "parity", "minimal", MODEL, FORWARD,
        "        Denoise.calls = getattr(Denoise, 'calls', 0) + (not torch.compiler.is_exporting())\n"
        "        return to_uint8(self.network(to_float(image)) + (Denoise.calls > 4))\n",
        "compared with torch: ", "model.py:", "docs/contract.md#build_task",
    ),
    "a mean over the batch": (
        "batches", "minimal", MODEL, FORWARD,
        "        x = to_float(image)\n        return to_uint8(self.network(x) - x.mean(0, keepdim=True))\n",
        "denoised of denoise depends on what else is in the batch", "model.py:", "docs/contract.md#build_task",
    ),
    "a size that was not traced": (
        "sizes", "minimal", MODEL, FORWARD,
        "        large = not torch.compiler.is_exporting() and image.shape[1] > 40\n"
        "        return to_uint8(self.network(to_float(image)) + large)\n",
        "57, 33, 1] compared with torch", "model.py:", "docs/contract.md#build_task",
    ),
    "a loss that does not fall": (
        "training", "minimal", MODEL, "F.mse_loss(self.network(x + DEVIATION * noise), x)",
        "0 * F.mse_loss(self.network(x + DEVIATION * noise), x) + 1",
        "the first loss, 'loss', went from 1 to 1 in 20 steps", "plugin.py:", "docs/contract.md#build_trainer",
    ),
    "a trainer that raises": (
        "training", "minimal", MODEL, "F.mse_loss(self.network(x + DEVIATION * noise), x)", "1 / 0",
        "step 0 of its trainer raised ZeroDivisionError", "model.py:", "docs/contract.md#trainer",
    ),
    "a seed that is not used": (
        "seeds", "image-generator", MODEL, "normal(seed, ", "normal(torch.zeros_like(seed), ",
        "another seed gives the same outputs of generate", "model.py:", "docs/contract.md#build_task",
    ),
    "a number drawn at random": (
        "round trip", "minimal", MODEL, "    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W], -1 .. 1",
        "        self.share = float(torch.rand(()))\n\n"
        "    def forward(self, x: Tensor) -> Tensor:\n        x = self.share * x  #",
        "saving, loading and saving again changes denoise.onnx", "plugin.py:", "docs/contract.md#build_module",
    ),
}  # fmt: skip


@pytest.mark.slow
def test_a_new_plugin_passes_every_check(make_plugin):
    examination = make_plugin()
    outcomes = [examination.outcome(check.name) for check in CHECKS]
    assert [(o.check, o.line) for o in outcomes if o.verdict != "pass"] == []
    assert all(outcome.why for outcome in outcomes)


def test_every_check_is_seen_to_fail():
    elsewhere = {"operators", "card"} | {way.check for way in WAYS.values()}
    assert {fault[0] for fault in FAULTS.values()} | elsewhere == {check.name for check in CHECKS}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_fails_its_check_with_place_and_section(make_plugin, name):
    check, template, file, sound, fault, says, where, read = FAULTS[name]
    examination = make_plugin((file, sound, fault), template=template)
    outcome = examination.outcome(check)
    assert (outcome.verdict, says in outcome.why) == ("fail", True), outcome.line
    assert outcome.read == read
    assert where in outcome.where and bool(where) == bool(outcome.where), outcome.line
    later = [c.name for c in CHECKS if check in c.needs]
    assert all(examination.outcome(name).verdict == "blocked" for name in later)
    needed = next(c.needs for c in CHECKS if c.name == check)
    assert all(examination.outcome(name).verdict == "pass" for name in needed)


@pytest.mark.slow
def test_a_bundle_that_targets_do_not_take(make_plugin):
    """What our own exporter would have to do wrong: a newer IR, a random operator, a card without the licence."""
    import onnx

    examination = make_plugin()
    assert examination.outcome("exports").verdict == "pass"
    bundle = examination.subject.bundle
    graph = onnx.load(bundle / "denoise.onnx", load_external_data=False)
    graph.ir_version = 12
    onnx.save(graph, bundle / "denoise.onnx")
    assert "has opset 18 and IR 12; the targets support at most 20 and 10" in examination.outcome("operators").why
    (bundle / "README.md").write_text("denoise, and no licence")
    assert "the card does not name Apache-2.0" in examination.outcome("card").why
