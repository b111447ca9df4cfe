"""A codec's tasks as graphs against torch, for pictures of any size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from zoo_vqvae.ports import codec_tasks
from zoo_vqvae.tasks import Decode, Encode, Reconstruct

from zoo.build.tracing import export_task
from zoo.build.weights import Weights
from zoo.hookspecs import Tolerance
from zoo.run.comparison import compare
from zoo.runtime import open_session

SIZES = ((8, 8), (13, 57), (481, 321))
"""The smallest, one that fits no grid, and the size of BSDS500's pictures."""


def assert_graphs_are_torchs(codec: nn.Module, folder: Path, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
    """A codec's three graphs compared with torch: equal tokens except for ties, their pixels within tolerance."""
    c, tolerance = codec.config, Tolerance()
    tasks = codec_tasks(
        channels=c.image_channels,
        downsampling=c.downsampling,
        num_codes=len(codec.quantizer.codebook),
        maximum_pixels=1_000_000,
    )
    encode, decode = Encode(codec).eval(), Decode(codec).eval()
    modules = {"encode": encode, "decode": decode, "reconstruct": Reconstruct(codec).eval()}
    weights = Weights(nn.ModuleDict({"codec": codec}), ("codec",), folder)
    graphs = {}
    for name, module in modules.items():
        export_task(module, name, tasks[name], weights, folder / f"{name}.onnx")
        graphs[name] = open_session(folder / f"{name}.onnx", "cpu")

    rng = np.random.default_rng(0)
    for height, width in sizes:
        batch = 2 if height * width < 10_000 else 1
        image = rng.integers(0, 256, (batch, height, width, c.image_channels), dtype=np.uint8)
        encoded = graphs["encode"].run({"image": image})
        decoded = graphs["decode"].run(encoded)["image"]
        reconstruction = graphs["reconstruct"].run({"image": image})["reconstruction"]
        with torch.no_grad():
            tokens, size = encode(torch.from_numpy(image))
            clear = encode.margins(torch.from_numpy(image)).numpy() > tolerance.token_margin
            picture = decode(torch.from_numpy(encoded["tokens"]), size).numpy()
        assert encoded["tokens"].shape == (batch, -(-height // c.downsampling), -(-width // c.downsampling))
        assert clear.mean() > 0.98, "nearly all tokens are compared"
        assert np.array_equal(encoded["tokens"][clear], tokens.numpy()[clear])
        assert encoded["size"].tolist() == size.tolist() == [height, width]
        for pixels in (decoded, reconstruction):
            found = compare(tasks["decode"].outputs["image"], picture, pixels, tolerance)
            assert found.verdict != "differs", f"{height}x{width}: {found.text}"
