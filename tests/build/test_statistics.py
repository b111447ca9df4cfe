"""Statistics over features, against closed forms and against their definitions written out."""

import os

import numpy as np
import pytest

from zoo.build.statistics import frechet_distance, inception, nearest_distance, precision_recall, spread
from zoo.errors import InvalidFileError, NotFoundError

RNG = np.random.default_rng(0)


def gaussian(mean, deviation, number=40_000):
    return (mean + RNG.standard_normal((number, len(mean))) * deviation).astype(np.float32)


def test_the_frechet_distance_of_gaussians_has_a_closed_form():
    a, b = gaussian([0, 0, 1], [1, 2, 1]), gaussian([3, 0, 1], [1, 1, 4])
    # |mu - mu'|^2 + the sum of (sigma - sigma')^2, for diagonal covariances
    assert frechet_distance(a, b) == pytest.approx(9 + 0 + 1 + 9, rel=0.03)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-3)


def precision_by_definition(generated, real):
    """Kynkäänniemi et al. 2019, equation 1: how many generated vectors lie within some real one's third neighbour."""

    def distances(a, b):
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))

    radii = np.sort(distances(real, real), axis=1)[:, 3]
    return float((distances(generated, real) <= radii).any(axis=1).mean())


def test_precision_and_recall_are_those_of_the_definition():
    generated = gaussian([0, 0], [1, 1], 150)
    real = gaussian([1.5, 0], [1, 3], 200)
    precision, recall = precision_recall(generated, real)
    assert precision == pytest.approx(precision_by_definition(generated, real))
    assert recall == pytest.approx(precision_by_definition(real, generated))
    assert 0.2 < recall < precision < 1  # neither is trivial


def test_spread_is_the_mean_distance_within_classes():
    features = np.array([[0, 0], [3, 4], [10, 0], [10, 1], [99, 99]], np.float32)
    assert spread(features, np.array([0, 0, 1, 1, 2])) == pytest.approx((5 + 1) / 2)


def test_each_vector_has_the_distance_of_its_nearest():
    among = RNG.standard_normal((70, 5)).astype(np.float32)
    vectors = np.concatenate([among[:3] + np.float32(0.01), RNG.standard_normal((1200, 5)).astype(np.float32)])
    expected = np.sqrt(((vectors[:, None] - among[None]) ** 2).sum(-1)).min(axis=1)
    assert nearest_distance(vectors, among) == pytest.approx(expected, abs=1e-3)


def test_weights_that_are_something_else_are_refused(tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(b"no weights")
    with pytest.raises(InvalidFileError, match="weights.pth does not contain Inception weights"):
        inception(file)
    file.write_bytes(b"<html>not found</html>")
    with pytest.raises(InvalidFileError, match="weights.pth is not the file itself, but an HTML page"):
        inception(file)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidFileError, match="pipe is not a plain file"):
        inception(tmp_path / "pipe")
    with pytest.raises(NotFoundError, match="none.pth does not exist"):
        inception(tmp_path / "none.pth")
