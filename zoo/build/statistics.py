"""How close one set of pictures is to another: statistics over their feature vectors, float32 [number, features].

The Fréchet distance, precision and recall are torch-fidelity's, so that results can be compared with those of others
that name their evaluator. The caller chooses the features (a judge's, or Inception's). It is imported where it
measures: with torchvision and the compiler of torch it takes 1.5 s that a training or a build need not wait for.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..errors import InvalidFileError
from ..system.paths import read_file
from ..text import one_line, safe_text, stand_in

NEIGHBOURS = 3  # Kynkäänniemi et al. 2019, section 5
CHUNK = 2_000  # rows of a distance matrix at a time


def frechet_distance(generated: np.ndarray, real: np.ndarray) -> float:
    """|mu_g - mu_r|^2 + tr(S_g + S_r - 2 (S_g S_r)^(1/2)), with means mu and covariances S.

    NaN if a set has fewer than two vectors, so no covariance, or if the root cannot be computed.

    Source: Heusel et al. 2017 (https://arxiv.org/abs/1706.08500), equation 6.
    """
    if min(len(generated), len(real)) < 2:
        return math.nan
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    a, b = (fid_features_to_statistics(torch.from_numpy(x)) for x in (generated, real))
    try:
        return float(fid_statistics_to_metric(a, b, verbose=False)["frechet_inception_distance"])
    except (np.linalg.LinAlgError, ValueError, AssertionError):
        return math.nan


def precision_recall(generated: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """The share of generated pictures that are among the real ones, and of real ones among the generated; 0 .. 1 each.

    NaN if a set is so small that its vectors do not have a third neighbour.

    Source: Kynkäänniemi et al. 2019 (https://arxiv.org/abs/1904.06991), equation 2, with the third neighbour.
    """
    if min(len(generated), len(real)) <= NEIGHBOURS:
        return math.nan, math.nan
    from torch_fidelity.metric_prc import prc_features_to_metric

    values = prc_features_to_metric(
        torch.from_numpy(generated),
        torch.from_numpy(real),
        prc_neighborhood=NEIGHBOURS,
        prc_batch_size=CHUNK,
        save_cpu_ram=True,
        verbose=False,
    )
    return values["precision"], values["recall"]


def spread(features: np.ndarray, labels: np.ndarray) -> float:
    """The mean distance between two vectors of the same class, over classes with two or more; NaN without one."""
    means = []
    for label in np.unique(labels):
        of_class = torch.from_numpy(features[labels == label])
        if len(of_class) > 1:
            means.append(float(torch.pdist(of_class).mean()))
    return float(np.mean(means)) if means else float("nan")


def ratio(value: float, unit: float) -> float:
    """value / unit; NaN if the unit is 0, e.g. the distance between pictures that are all the same."""
    return value / unit if unit > 0 else math.nan


def nearest_distance(vectors: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The Euclidean distance of each vector to the nearest of the others, float32 [number]."""
    a, b = torch.from_numpy(vectors), torch.from_numpy(among)
    return torch.cat([torch.cdist(part, b).min(dim=1).values for part in a.split(CHUNK // 4)]).numpy()


def inception(weights: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The Inception features of FID: pictures uint8 [N, H, W, 1 or 3] to float32 [N, 2048].

    Args:
        weights: the file `pt_inception-2015-12-05-6726825d.pth` from torch-fidelity's releases.

    Raises:
        NotFoundError, InvalidFileError: there is no such file, or it does not contain these weights.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    if known := stand_in(read_file(weights, 2048)):
        raise InvalidFileError(f"{safe_text(weights)} is not the file itself, but {known}")
    try:
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)
        )
    except Exception as e:  # torch may raise anything for another kind of file
        raise InvalidFileError(f"{safe_text(weights)} does not contain Inception weights: {one_line(e)}") from None

    def features(images: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(images).permute(0, 3, 1, 2)
        with torch.no_grad():
            return network(x.expand(-1, 3, -1, -1).contiguous())[0].numpy()

    return features
