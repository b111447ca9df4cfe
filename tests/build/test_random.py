"""Noise: known answers, a second implementation, the exported graph, and what a statistician would ask."""

import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import noise
from zoo.build.random import normal, threefry2x32, uniform, words

M = 0xFFFFFFFF

# Random123's kat_vectors: counter, key, result of threefry2x32 with 20 rounds.
KNOWN_ANSWERS = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


# --- docs/noise.md in plain Python: no torch, no numpy ----------------------------------------------------------------


def plain_threefry(counter, key):
    keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    x = [(c + k) & M for c, k in zip(counter, key)]
    for i in range(20):
        r = (13, 15, 26, 6, 17, 29, 16, 24)[i % 8]
        x[0] = (x[0] + x[1]) & M
        x[1] = ((x[1] << r | x[1] >> (32 - r)) & M) ^ x[0]
        if i % 4 == 3:
            n = (i + 1) // 4
            x[0] = (x[0] + keys[n % 3]) & M
            x[1] = (x[1] + keys[(n + 1) % 3] + n) & M
    return tuple(x)


def plain_pair(seed, index, stream):
    return plain_threefry((index, stream), (seed & M, seed >> 32))


def plain_uniform(seed, index, stream):
    return (2 * (plain_pair(seed, index // 2, stream)[index % 2] >> 9) + 1) * 2.0**-24


def plain_normal(seed, index, stream):
    w0, w1 = plain_pair(seed, index // 2, stream)
    radius = math.sqrt(-2 * math.log((w0 + 0.5) * 2.0**-32))
    angle = (w1 + 0.5) * 2.0**-32 * (2 * math.pi)
    return to_float32(radius * (math.sin(angle) if index % 2 else math.cos(angle)))


def to_float32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def ulps(a, b):
    """How many float32 values apart two arrays are at most."""
    ordered = [x.view(np.int32).astype(np.int64) for x in (np.asarray(a, np.float32), np.asarray(b, np.float32))]
    ordered = [np.where(x < 0, -(x & 0x7FFFFFFF), x) for x in ordered]
    return int(np.abs(ordered[0] - ordered[1]).max())


# --- The bits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_known_answers(counter, key, result):
    def tensors(pair):
        return tuple(torch.tensor([word]) for word in pair)

    assert tuple(int(word) for word in threefry2x32(tensors(key), tensors(counter))) == result
    assert plain_threefry(counter, key) == result


seeds = st.integers(0, 2**53 - 1)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, count=st.integers(1, 9), stream=st.integers(0, M))
def test_every_value_is_that_of_the_plain_implementation(seed, count, stream):
    batch = torch.tensor([seed])
    pairs = [plain_pair(seed, i, stream) for i in range(count)]
    assert [tuple(map(int, pair)) for pair in zip(*(w[0] for w in words(batch, count, stream)))] == pairs
    assert uniform(batch, (count,), stream)[0].tolist() == [plain_uniform(seed, i, stream) for i in range(count)]
    assert ulps(normal(batch, (count,), stream)[0], [plain_normal(seed, i, stream) for i in range(count)]) <= 4


@settings(max_examples=30, deadline=None)
@given(batch=st.lists(seeds, min_size=1, max_size=3), count=st.integers(1, 9), stream=st.integers(0, M))
def test_numpys_values_are_those_of_torch(batch, count, stream):
    seed = np.array(batch)
    for ours, torchs in zip(noise.words(seed, count, stream), words(torch.tensor(batch), count, stream), strict=True):
        assert ours.dtype == np.uint32 and ours.tolist() == torchs.tolist()
    for draw, torchs in ((noise.uniform, uniform), (noise.normal, normal)):
        ours, expected = draw(seed, (count, 3), stream), torchs(torch.tensor(batch), (count, 3), stream).numpy()
        assert ours.dtype == np.float32 and ours.shape == expected.shape
        assert ulps(ours, expected) <= (4 if draw is noise.normal else 0)


def test_values_that_docs_noise_quotes():
    seed = torch.tensor([7])
    assert [hex(int(w[0, 0])) for w in words(seed, 1)] == ["0xe892296a", "0xbc3b53b9"]
    assert uniform(seed, (2,))[0].tolist() == [0.9084802269935608, 0.7352802157402039]
    documented = [-0.04046419635415077, -0.4362647235393524, -0.3205668330192566, 0.7990275025367737]
    assert ulps(normal(seed, (4,))[0], documented) <= 4
    seed = np.array([7])
    assert [hex(w[0, 0]) for w in noise.words(seed, 1)] == ["0xe892296a", "0xbc3b53b9"]
    assert noise.uniform(seed, (2,))[0].tolist() == [0.9084802269935608, 0.7352802157402039]
    assert ulps(noise.normal(seed, (4,))[0], documented) <= 4
    assert [hex(w[0, 0]) for w in noise.words(np.array([0]), 1)] == ["0x6b200159", "0x99ba4efe"]  # Random123's first


def test_a_picture_depends_on_its_own_seed_alone():
    batch = torch.tensor([3, 2**53 - 1, 0, 12345])
    together = normal(batch, (1, 5, 3))
    assert together.shape == (4, 1, 5, 3) and together.dtype == torch.float32
    for i, seed in enumerate(batch):
        assert torch.equal(normal(seed.reshape(1), (1, 5, 3))[0], together[i])
    assert torch.equal(normal(batch, (15,)).reshape(together.shape), together), "the shape only arranges"
    assert torch.equal(normal(batch, (40,))[:, :15], together.flatten(1)), "a longer stream begins like a shorter one"


# --- The exported graph -----------------------------------------------------------------------------------------------


class Noise(torch.nn.Module):
    def forward(self, seed, stream):
        w0, w1 = words(seed, 13, stream)
        return torch.stack((w0, w1), -1), uniform(seed, (5, 7), stream), normal(seed, (5, 7), stream)


@pytest.fixture(scope="module", params=["operation by operation", "one operator"])
def session(request, tmp_path_factory):
    """As torch's exporter traces it, and as ours does."""
    import contextlib

    import onnxruntime

    from zoo.build.threefry import as_one_operator
    from zoo.build.translations import TRANSLATIONS

    ours = request.param == "one operator"

    path = tmp_path_factory.mktemp("noise") / "noise.onnx"
    arguments = torch.tensor([1, 2]), torch.tensor(3)
    dynamic = ({0: torch.export.Dim.DYNAMIC}, None)
    with as_one_operator() if ours else contextlib.nullcontext():
        program = torch.export.export(Noise().eval(), arguments, dynamic_shapes=dynamic, strict=False)
        assert ("zoo.threefry2x32" in str(program.graph)) == ours
        exported = torch.onnx.export(
            program, custom_translation_table=TRANSLATIONS, opset_version=18, dynamo=True, verbose=False
        )
    exported.save(path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.slow
def test_the_exported_graph_gives_the_same_bits(session):
    for seeds, stream in (([5], 0), ([0, 2**53 - 1, 99], M), (list(range(2**32 - 3, 2**32 + 4)), 1)):
        batch = np.array(seeds, np.int64)
        names = [i.name for i in session.get_inputs()]
        bits, uniforms, normals = session.run(None, dict(zip(names, (batch, np.array(stream, np.int64)))))
        expected = Noise()(torch.from_numpy(batch), torch.tensor(stream))
        assert np.array_equal(bits, expected[0].numpy())
        assert np.array_equal(uniforms, expected[1].numpy())
        assert ulps(normals, expected[2].numpy()) <= 4


@pytest.mark.slow
def test_the_graph_has_no_random_operator_and_only_standard_ones(session):
    import onnx

    model = onnx.load(session._model_path)
    used = {node.op_type for node in model.graph.node}
    assert not {name for name in used if name.startswith("Random")}
    assert {node.domain for node in model.graph.node} == {""}


# --- The distribution -------------------------------------------------------------------------------------------------


def kolmogorov_smirnov(sample, cdf):
    """The largest gap between the sample's distribution and `cdf`, times sqrt(n): over 1.95 for one sample in 1,000."""
    x = np.sort(np.asarray(sample, np.float64).ravel())
    expected, n = cdf(x), len(x)
    steps = np.arange(n + 1) / n
    return math.sqrt(n) * max(np.abs(expected - steps[:-1]).max(), np.abs(expected - steps[1:]).max())


def gaussian_cdf(x):
    return torch.special.ndtr(torch.from_numpy(x)).numpy()


def test_distribution():
    z = normal(torch.arange(50), (2000,)).numpy()
    assert kolmogorov_smirnov(z, gaussian_cdf) < 1.95
    assert kolmogorov_smirnov(uniform(torch.arange(50), (2000,)).numpy(), lambda x: x) < 1.95
    assert max(kolmogorov_smirnov(row, gaussian_cdf) for row in z) < 2.3, "each seed by itself"
    n = z.size
    assert abs(z.mean()) < 4 / math.sqrt(n) and abs(z.var() - 1) < 4 * math.sqrt(2 / n)
    assert np.isfinite(z).all() and np.abs(z).max() < 6.77


def test_seeds_and_streams_are_independent():
    """Neighbouring seeds, pixels and streams: correlations within 5 standard errors, of values and of squares."""
    size = 4000
    z = torch.cat([normal(torch.arange(12) + 2**32 - 6, (size,), stream) for stream in (0, 1, 2)]).double()
    for values in (z, z.square()):
        correlations = torch.corrcoef(values) - torch.eye(len(z))
        assert correlations.abs().max() < 5 / math.sqrt(size)
        shifted = (values[:, 1:] - values.mean()) * (values[:, :-1] - values.mean()) / values.var()
        assert shifted.mean().abs() < 5 / math.sqrt(z.numel())


def test_a_batch_of_equal_seeds_is_equal():
    z = normal(torch.tensor([4, 4]), (64,))
    assert torch.equal(z[0], z[1]) and not torch.equal(z[0], normal(torch.tensor([5]), (64,))[0])
