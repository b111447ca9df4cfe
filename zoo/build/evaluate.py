"""The figures of a card, measured over ONNX Runtime, shared by families of one kind."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from ..hookspecs import MeasureRequest, Metric

BATCH = 250
SSIM_WINDOW = 11  # pixels; smaller pictures have no SSIM


def batches(request: MeasureRequest) -> Iterator[slice]:
    """Slices of the pictures, with the request's progress around them."""
    starts = range(0, len(request.images), BATCH)
    for start in request.progress(iter(starts), len(starts)):
        yield slice(start, start + BATCH)


def psnr(pictures: np.ndarray, originals: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each picture, dB: 10 log10(255^2 / MSE); 100 dB where they are equal.

    Both uint8 [N, H, W, C]; gives float64 [N].
    """
    a, b = (torch.tensor(x).double() for x in (pictures, originals))
    values = peak_signal_noise_ratio(a, b, data_range=255.0, reduction="none", dim=(1, 2, 3))
    return values.clamp(max=100).numpy()


def ssim(pictures: np.ndarray, originals: np.ndarray) -> np.ndarray:
    """Structural similarity of each picture (Wang et al. 2004: Gaussian window 11x11, sigma 1.5, K 0.01 and 0.03).

    The mean over all pixels, the picture mirrored beyond its edges. In float64: a flat picture's variance is the
    difference of two large numbers.

    Both uint8 [N, H, W, C], at least `SSIM_WINDOW` pixels each way; gives float64 [N].
    """
    a, b = (torch.tensor(x).permute(0, 3, 1, 2).double() for x in (pictures, originals))
    values = structural_similarity_index_measure(a, b, data_range=255.0, reduction="none")
    return values.numpy()


def codebook_use(counts: np.ndarray) -> float:
    """Share of the codes that were used at all, percent."""
    return 100 * float((counts > 0).mean())


def perplexity(counts: np.ndarray) -> float:
    """exp(entropy) of the code frequencies: between 1 and the number of codes."""
    p = counts[counts > 0] / counts.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def measure_codec(request: MeasureRequest, *, num_codes: int) -> list[Metric]:
    """PSNR, SSIM, codebook use, perplexity of `encode` then `decode`; with a judge, how many labels survive."""
    counts = np.zeros(num_codes, np.int64)
    values: dict[str, list[np.ndarray]] = {}

    def add(name: str, each: np.ndarray) -> None:
        values.setdefault(name, []).append(each)

    for part in batches(request):
        images, labels = request.images[part], request.labels[part]
        encoded = request.model.run("encode", image=images)
        counts += np.bincount(encoded["tokens"].ravel(), minlength=num_codes)
        decoded = request.model.run("decode", **encoded)["image"]
        add("psnr", psnr(decoded, images))
        if min(images.shape[1:3]) >= SSIM_WINDOW:
            add("ssim", ssim(decoded, images))
        if request.judge is not None:
            add("label_kept", _judged(request.judge, decoded) == labels)
            add("label_of_originals", _judged(request.judge, images) == labels)

    def mean(name: str) -> float:
        return float(np.concatenate(values[name]).mean())

    metrics = [Metric(name="psnr", value=round(mean("psnr"), 3), unit="dB", better="higher")]
    if "ssim" in values:
        metrics.append(Metric(name="ssim", value=round(mean("ssim"), 4), better="higher"))
    metrics += [
        Metric(name="codebook_use", value=round(codebook_use(counts), 2), unit="%", better="higher"),
        Metric(name="perplexity", value=round(perplexity(counts), 1), better="higher"),
    ]
    if request.judge is not None:
        metrics += [
            Metric(name=name, value=round(100 * mean(name), 2), unit="%", better="higher")
            for name in ("label_kept", "label_of_originals")
        ]
    return metrics


def measure_classifier(request: MeasureRequest) -> list[Metric]:
    """Share of pictures whose label `classify` gives."""
    right = [_judged(request.model, request.images[part]) == request.labels[part] for part in batches(request)]
    accuracy = 100 * float(np.concatenate(right).mean())
    return [Metric(name="accuracy", value=round(accuracy, 2), unit="%", better="higher")]


def _judged(judge: Any, images: np.ndarray) -> np.ndarray:
    return judge.run("classify", image=images)["label"]
