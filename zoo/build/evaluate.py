"""Measures the metrics of a card in ONNX Runtime, for families of the same kind.

torchmetrics is imported where it measures: it imports torchvision and transformers if they are installed, which takes
seconds that a command without a codec need not wait for.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from ..hookspecs import MeasureRequest, Metric
from . import statistics

if TYPE_CHECKING:
    from ..run.model import Model

BATCH = 250  # pictures
BATCH_PIXELS = BATCH * 32 * 32  # limit for a batch of large pictures: a codec needs kilobytes per pixel
TASK = "generate"
LABEL = "label"  # of a judge with a single label
SSIM_WINDOW = 11  # pixels; smaller pictures have no SSIM
MS_SSIM_SIDE = 176  # pixels: 16 times the window; smaller pictures have no MS-SSIM


def batches(request: MeasureRequest) -> Iterator[slice]:
    """Slices of the pictures, wrapped in the request's progress."""
    height, width = request.images.shape[1:3]
    size = max(1, min(BATCH, BATCH_PIXELS // (height * width)))
    starts = range(0, len(request.images), size)
    for start in request.progress(iter(starts), len(starts)):
        yield slice(start, start + size)


def psnr(pictures: np.ndarray, originals: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each picture, dB: 10 log10(255^2 / MSE); 100 dB if they are equal.

    Both uint8 [N, H, W, C]; returns float64 [N].
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    a, b = (torch.tensor(x).double() for x in (pictures, originals))
    values = peak_signal_noise_ratio(a, b, data_range=255.0, reduction="none", dim=(1, 2, 3))
    return values.clamp(max=100).numpy()


def ssim(pictures: np.ndarray, originals: np.ndarray) -> np.ndarray:
    """Structural similarity of each picture (Wang et al. 2004: Gaussian window 11x11, sigma 1.5, K 0.01 and 0.03).

    The mean over all pixels, with the picture mirrored beyond its edges. In float64, because a flat picture's variance
    is the difference of two large numbers.

    Both uint8 [N, H, W, C], at least `SSIM_WINDOW` pixels in each direction; returns float64 [N].
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = (torch.tensor(x).permute(0, 3, 1, 2).double() for x in (pictures, originals))
    values = structural_similarity_index_measure(a, b, data_range=255.0, reduction="none")
    assert isinstance(values, torch.Tensor)  # a pair only if the full similarity map is requested
    return values.numpy()


def codebook_use(counts: np.ndarray) -> float:
    """Share of the codes that were used at all, in percent."""
    return 100 * float((counts > 0).mean())


def perplexity(counts: np.ndarray) -> float:
    """exp(entropy) of the code frequencies: between 1 and the number of codes."""
    p = counts[counts > 0] / counts.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def ms_ssim(pictures: np.ndarray, originals: np.ndarray) -> np.ndarray:
    """Structural similarity over five scales (Wang, Simoncelli, Bovik 2003), a perceptual similarity without a network.

    Both uint8 [N, H, W, C], at least `MS_SSIM_SIDE` pixels in each direction; returns float64 [N].
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as measure

    a, b = (torch.tensor(x).permute(0, 3, 1, 2).double() for x in (pictures, originals))
    return measure(a, b, data_range=255.0, reduction="none", normalize="relu").numpy()


def measure_codec(request: MeasureRequest, *, num_codes: int | None) -> list[Metric]:
    """How similar `request.images` are after `encode` and `decode`.

    - `psnr`, `ssim` and, for large pictures, `ms_ssim`: the mean over pictures.
    - `codebook_use` and `perplexity` of the tokens, if there are `num_codes`.
    - With a judge: `label_kept`, the share that it still classifies correctly, and `label_of_originals`; for a judge of
      labels with other names, `style_kept` and `style_of_originals`, if the data have them;
      `perceptual_distance`, the mean distance between its features of a picture and of the reconstruction, divided by
      that of two pictures; `reconstruction_frechet_distance` between its features of all pictures and all
      reconstructions.
    """
    values, counts = _reconstruct(request, num_codes or 0)
    means = {name: float(each.mean()) for name, each in values.items()}
    metrics = [Metric(name="psnr", value=round(means["psnr"], 3), unit="dB", better="higher")]
    metrics += [
        Metric(name=name, value=round(means[name], 4), better="higher") for name in ("ssim", "ms_ssim") if name in means
    ]
    if num_codes:
        metrics += [
            Metric(name="codebook_use", value=round(codebook_use(counts), 2), unit="%", better="higher"),
            Metric(name="perplexity", value=round(perplexity(counts), 1), better="higher"),
        ]
    if request.judge is not None:
        judged = partial(Metric, judge=request.judged_by)
        metrics += [
            judged(name=name, value=round(100 * means[name], 2), unit="%", better="higher")
            for label in means
            if label.endswith("_kept")
            for name in (label, f"{label.removesuffix('_kept')}_of_originals")
        ]
        ours, real = values["features"], values["features_of_originals"]
        apart = statistics.spread(real, np.zeros(len(real), np.int64))
        found = {
            "perceptual_distance": statistics.ratio(float(np.linalg.norm(ours - real, axis=1).mean()), apart),
            "reconstruction_frechet_distance": statistics.frechet_distance(ours, real),
        }
        metrics += [judged(name=name, value=_four_digits(value), better="lower") for name, value in found.items()]
    return metrics


def _reconstruct(request: MeasureRequest, num_codes: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What is found of each picture after `encode` and `decode`, by name; and how often each code was used."""
    counts = np.zeros(num_codes, np.int64)
    found: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    for part in batches(request):
        images = request.images[part]
        encoded = request.model.run("encode", image=images)
        if num_codes:
            counts += np.bincount(encoded["tokens"].ravel(), minlength=num_codes)
        decoded = request.model.run("decode", **encoded)["image"]
        found["psnr"].append(psnr(decoded, images))
        if min(images.shape[1:3]) >= SSIM_WINDOW:
            found["ssim"].append(ssim(decoded, images))
        if min(images.shape[1:3]) >= MS_SSIM_SIDE:
            found["ms_ssim"].append(ms_ssim(decoded, images))
        if request.judge is not None:
            given, given_of_originals = (request.judge.run("classify", image=x) for x in (decoded, images))
            for name, label in _known(request, given).items():
                found[f"{name}_kept"].append(given[name] == label[part])
                found[f"{name}_of_originals"].append(given_of_originals[name] == label[part])
            found["features"].append(request.judge.run("features", image=decoded)["features"])
            found["features_of_originals"].append(request.judge.run("features", image=images)["features"])
    return {name: np.concatenate(parts) for name, parts in found.items()}, counts


def _four_digits(value: float) -> float:
    return float(f"{value:.4g}")


def measure_classifier(request: MeasureRequest) -> list[Metric]:
    """Share of pictures for which `classify` gives the label; `accuracy`, or `style_accuracy` of one with that name."""
    right: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    for part in batches(request):
        given = request.model.run("classify", image=request.images[part])
        for name, label in _known(request, given).items():
            right["accuracy" if name == LABEL else f"{name}_accuracy"].append(given[name] == label[part])
    shares = {name: 100 * float(np.concatenate(parts).mean()) for name, parts in right.items()}
    return [Metric(name=name, value=round(share, 2), unit="%", better="higher") for name, share in shares.items()]


def _known(request: MeasureRequest, given: Iterable[str]) -> dict[str, np.ndarray]:
    """The right labels of `request.images`, by name, of some names, as far as the data have them."""
    known = {LABEL: request.labels, **request.arrays}
    return {name: known[name] for name in given if name in known}


# --- Families that draw -----------------------------------------------------------------------------------------------


def measure_generator(request: MeasureRequest) -> list[Metric]:
    """How good and how varied the pictures of `generate` are, and whether they are copies.

    Draws `request.samples` pictures with seeds 0, 1, … and, in order, the labels of `request.images` and what else of
    them it draws by (`request.arrays`), such as texts, and compares them with `request.images`.

    - In the judge's features: `frechet_distance`, `precision`, `recall`, and `diversity`, the mean distance within a
      class divided by that of real pictures.
    - By the judge's labels: `asked_label`, the share of pictures with the requested label, and `worst_class_gap`, by
      how many points that share is below the judge's accuracy on real pictures, in the worst class. Of labels with
      other names, `asked_style` and `real_style`, the judge's accuracy on real pictures.
    - With training pictures: `frechet_floor`, the distance of as many real ones to `request.images`, and
      `nearest_training`, the median distance in pixels from a drawn picture to its nearest training picture, divided by
      that of a real one. Well under 1 would mean copying.
    - With Inception's weights: `inception_fid`.
    """
    number = request.samples or len(request.images)
    labels = np.resize(request.labels, number)
    drawn = _draw(request, np.resize(np.arange(len(request.images)), number))
    metrics: list[Metric] = []
    if request.judge is not None:
        metrics += _measure_by_judge(request, request.judge, drawn, labels)
    if request.inception is not None:
        seen = statistics.inception(request.inception)
        sets = [np.concatenate([seen(part) for part in _parts(pictures)]) for pictures in (drawn, request.images)]
        metrics.append(Metric(name="inception_fid", value=statistics.frechet_distance(*sets), better="lower"))
    if request.training_images is not None:
        flat = [x.reshape(len(x), -1).astype(np.float32) for x in (drawn, request.images, request.training_images)]
        ours, real = (float(np.median(statistics.nearest_distance(x, flat[2]))) for x in flat[:2])
        metrics.append(Metric(name="nearest_training", value=statistics.ratio(ours, real)))
    return [msgspec.structs.replace(m, value=_four_digits(m.value), samples=number) for m in metrics]


def _draw(request: MeasureRequest, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The pictures of seeds 0, 1, …, uint8 [number, height, width, channels], drawn by labels, texts, … of the data.

    Args:
        rows: int64 [number], whose: indices into `request.images`.
    """
    inputs = request.model.manifest.tasks[TASK].inputs
    output = next(iter(request.model.manifest.tasks[TASK].outputs))
    given = {name: array for name, array in {LABEL: request.labels, **request.arrays}.items() if name in inputs}
    starts = range(0, len(rows), BATCH)
    pictures = []
    for start in request.progress(iter(starts), len(starts)):
        part = rows[start : start + BATCH]
        ports = {"seed": np.arange(start, start + len(part))} | {name: array[part] for name, array in given.items()}
        pictures.append(request.model.run(TASK, **ports, **request.options)[output])
    return np.concatenate(pictures)


def _measure_by_judge(
    request: MeasureRequest, judge: "Model", drawn: NDArray[np.uint8], labels: NDArray[np.int64]
) -> Iterator[Metric]:
    """The judge's metrics of the drawn pictures, compared with the real ones."""
    metric = partial(Metric, judge=request.judged_by)

    def judged(pictures: np.ndarray, task: str, port: str) -> np.ndarray:
        return np.concatenate([judge.run(task, image=part)[port] for part in _parts(pictures)])

    ours, real = (judged(pictures, "features", "features") for pictures in (drawn, request.images))
    yield metric(name="frechet_distance", value=statistics.frechet_distance(ours, real), better="lower")
    if request.training_images is not None:
        # Every n-th picture, since a data set may be sorted by class.
        apart = max(1, len(request.training_images) // len(drawn))
        floor = judged(request.training_images[::apart][: len(drawn)], "features", "features")
        yield metric(name="frechet_floor", value=statistics.frechet_distance(floor, real))
    precision, recall = statistics.precision_recall(ours, real)
    yield metric(name="precision", value=100 * precision, better="higher", unit="%")
    yield metric(name="recall", value=100 * recall, better="higher", unit="%")
    asked = _known(request, request.model.manifest.tasks[TASK].inputs)
    if not asked:
        return
    given, given_real = (_classified(judge, pictures) for pictures in (drawn, request.images))
    for name, label in asked.items():
        if name == LABEL or name not in given:
            continue
        yield metric(
            name=f"asked_{name}",
            value=100 * float((given[name] == np.resize(label, len(drawn))).mean()),
            better="higher",
            unit="%",
        )
        yield metric(name=f"real_{name}", value=100 * float((given_real[name] == label).mean()), unit="%")
    if LABEL not in asked or LABEL not in given:
        return
    diversity = statistics.ratio(statistics.spread(ours, labels), statistics.spread(real, request.labels))
    yield metric(name="diversity", value=diversity, better="higher")
    right, right_real = given[LABEL] == labels, given_real[LABEL] == request.labels
    yield metric(name="asked_label", value=100 * float(right.mean()), better="higher", unit="%")
    gaps = [right_real[request.labels == n].mean() - right[labels == n].mean() for n in np.unique(labels)]
    yield metric(name="worst_class_gap", value=100 * float(max(gaps)), better="lower", unit="points")


def _classified(judge: "Model", pictures: np.ndarray) -> dict[str, np.ndarray]:
    """What a judge says about pictures, by output."""
    parts = [judge.run("classify", image=part) for part in _parts(pictures)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _parts(pictures: np.ndarray) -> Iterator[np.ndarray]:
    return (pictures[i : i + BATCH] for i in range(0, len(pictures), BATCH))
