"""The metrics of a VAE's card: how much of a picture its latents keep, and how good its own pictures are."""

import numpy as np

from zoo.build.evaluate import batches, measure_generator, psnr, ssim
from zoo.hookspecs import MeasureRequest, Metric


def measure_vae(request: MeasureRequest) -> list[Metric]:
    """PSNR and SSIM of `decode` after `encode`, then the metrics of `generate`."""
    kept: dict[str, list[np.ndarray]] = {"psnr": [], "ssim": []}
    for part in batches(request):
        images = request.images[part]
        decoded = request.model.decode(**request.model.encode(image=images))["image"]
        kept["psnr"].append(psnr(decoded, images))
        kept["ssim"].append(ssim(decoded, images))
    means = {name: float(np.concatenate(values).mean()) for name, values in kept.items()}
    return [
        Metric(name="psnr", value=round(means["psnr"], 3), unit="dB", better="higher"),
        Metric(name="ssim", value=round(means["ssim"], 4), better="higher"),
        *measure_generator(request),
    ]
