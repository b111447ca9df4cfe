"""The figures of a card against closed forms and against their definitions written out."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from zoo.build.evaluate import (
    batches,
    codebook_use,
    measure_classifier,
    measure_codec,
    measure_generator,
    ms_ssim,
    perplexity,
    psnr,
    ssim,
)
from zoo.hookspecs import MeasureRequest

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


# --- PSNR -------------------------------------------------------------------------------------------------------------


def test_equal_pictures_have_100_db():
    a = noise(3, 12, 13, 1)
    assert psnr(a, a).tolist() == [100, 100, 100]


@pytest.mark.parametrize("offset", [1, 5, 100])
def test_a_constant_offset_has_a_closed_form(offset):
    a = RNG.integers(0, 156, (2, 8, 9, 3)).astype(np.uint8)
    assert psnr(a + np.uint8(offset), a) == pytest.approx(20 * math.log10(255 / offset))


def test_each_picture_has_its_own_value():
    a = np.zeros((2, 10, 10, 1), np.uint8)
    b = a.copy()
    b[1, 3, 3] = 255  # one pixel of a hundred: MSE 255^2 / 100
    assert psnr(b, a) == pytest.approx([100, 20])


# --- SSIM -------------------------------------------------------------------------------------------------------------


def test_equal_pictures_have_ssim_1():
    a = noise(2, 16, 17, 3)
    assert ssim(a, a) == pytest.approx([1, 1])


def test_flat_pictures_have_a_closed_form():
    a, b = np.full((1, 16, 16, 1), 100, np.uint8), np.full((1, 16, 16, 1), 150, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), abs=1e-6)


def ssim_by_definition(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, equation 13, the mean over all pixels, mirrored beyond the edges; [H, W] each."""
    a, b = (np.pad(z.astype(float), 5, mode="reflect") for z in (a, b))
    x = np.arange(11) - 5
    window = np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for row in range(a.shape[0] - 10):
        for column in range(a.shape[1] - 10):
            p, q = (z[row : row + 11, column : column + 11].astype(float) for z in (a, b))
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq, cov = (
                (window * p * p).sum() - mp**2,
                (window * q * q).sum() - mq**2,
                (window * p * q).sum() - mp * mq,
            )
            values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(values))


def test_any_pictures_have_the_value_of_the_definition():
    a = noise(2, 14, 19, 1)
    b = np.clip(a.astype(int) + RNG.integers(-40, 40, a.shape), 0, 255).astype(np.uint8)
    expected = [ssim_by_definition(p[..., 0], q[..., 0]) for p, q in zip(a, b, strict=True)]
    assert ssim(a, b) == pytest.approx(expected, abs=1e-6)


# --- Codebooks --------------------------------------------------------------------------------------------------------


def test_use_is_the_share_of_codes_that_were_chosen():
    assert codebook_use(np.array([3, 0, 1, 0])) == 50


def test_perplexity_is_between_one_and_the_number_of_codes():
    assert perplexity(np.array([0, 9, 0])) == 1
    assert perplexity(np.full(32, 4)) == pytest.approx(32)
    assert perplexity(np.array([1, 1, 2])) == pytest.approx(2 ** (1.5))


# --- Whole measurements, with small codecs and judges in numpy --------------------------------------------------------


class Darkener:
    """A codec of 256 codes, one a pixel, that loses 5 levels; half of the codes at most are ever used."""

    def run(self, task, **ports):
        if task == "encode":
            image = ports["image"]
            return {"tokens": image[..., 0].astype(np.int64), "size": np.array(image.shape[1:3])}
        return {"image": (ports["tokens"][..., None] - 5).astype(np.uint8)}


class BrightOrNot:
    """A judge: label 1 for pictures whose mean is at least 100."""

    def run(self, task, image):
        brightness = image.mean(axis=(1, 2, 3))
        if task == "features":
            return {"features": np.stack((brightness, 0 * brightness), axis=1).astype(np.float32)}
        return {"label": (brightness >= 100).astype(np.int64)}


def request(images, labels, *, model, judge=None, seen=None, **more):
    def progress(iterator, length):
        for item in iterator:
            yield item
            if seen is not None:
                seen.append(length)

    return MeasureRequest(
        family="test",
        config={},
        model=model,
        images=images,
        labels=labels,
        judge=judge,
        progress=progress,
        judged_by="bright:1" if judge else "",
        **more,
    )


def flat(*values: int, size: int = 12) -> np.ndarray:
    return np.stack([np.full((size, size, 1), value, np.uint8) for value in values])


def test_a_codec_is_measured():
    metrics = measure_codec(request(flat(102, 110, 50, 50), np.zeros(4, int), model=Darkener()), num_codes=256)
    values = {m.name: m.value for m in metrics}
    assert set(values) == {"psnr", "ssim", "codebook_use", "perplexity"}
    assert values["psnr"] == pytest.approx(20 * math.log10(255 / 5), abs=1e-3)
    assert values["codebook_use"] == pytest.approx(100 * 3 / 256, abs=0.01)
    assert values["perplexity"] == pytest.approx(2 ** (1.5), abs=0.05)
    assert {m.name: (m.unit, m.better) for m in metrics}["psnr"] == ("dB", "higher")


def test_a_judge_says_how_many_labels_survive():
    # 102 falls under 100 and loses its label; 50 was mislabelled from the start.
    images, labels = flat(102, 110, 50, 50), np.array([1, 1, 0, 1])
    metrics = measure_codec(request(images, labels, model=Darkener(), judge=BrightOrNot()), num_codes=256)
    values = {m.name: m.value for m in metrics}
    assert values["label_kept"] == 50 and values["label_of_originals"] == 75
    judged = {m.name for m in metrics if m.judge == "bright:1"}
    assert judged == {
        "label_kept",
        "label_of_originals",
        "perceptual_distance",
        "reconstruction_frechet_distance",
    }


def test_a_judge_says_how_far_reconstructions_are_from_their_originals():
    """Features are the brightness, which falls by 5. Pairs of 102, 110, 50 and 50 are 41 apart on average; the means
    are 5 apart, the variances equal."""
    metrics = measure_codec(
        request(flat(102, 110, 50, 50), np.zeros(4, int), model=Darkener(), judge=BrightOrNot()), num_codes=256
    )
    values = {m.name: m.value for m in metrics}
    pairs = (8 + 52 + 52 + 60 + 60 + 0) / 6
    assert values["perceptual_distance"] == pytest.approx(5 / pairs, rel=1e-3)
    assert values["reconstruction_frechet_distance"] == pytest.approx(25, rel=1e-3)
    assert {m.name: m.better for m in metrics}["perceptual_distance"] == "lower"


def test_large_pictures_have_ms_ssim_and_a_codec_may_have_no_codes():
    images = np.concatenate([noise(1, 176, 180, 1), np.full((1, 176, 180, 1), 50, np.uint8)])
    assert ms_ssim(images, images) == pytest.approx([1, 1])
    assert 0 < ms_ssim(images[:1] // 2, images[:1])[0] < 1
    metrics = measure_codec(request(images[:1] // 2 + 5, np.zeros(1, int), model=Darkener()), num_codes=None)
    assert [m.name for m in metrics] == ["psnr", "ssim", "ms_ssim"]


def test_pictures_smaller_than_the_window_have_no_ssim():
    metrics = measure_codec(request(flat(100, size=10), np.zeros(1, int), model=Darkener()), num_codes=256)
    assert [m.name for m in metrics] == ["psnr", "codebook_use", "perplexity"]


def test_batches_cover_every_picture_once():
    seen = []
    images = np.concatenate([flat(*[20] * 600), flat(10)])  # the last one alone is another
    metrics = measure_codec(request(images, np.zeros(601, int), model=Darkener(), seen=seen), num_codes=256)
    assert seen == [3, 3, 3]
    assert {m.name: m.value for m in metrics}["perplexity"] == round(perplexity(np.array([600, 1])), 1)


def test_large_pictures_are_measured_few_at_a_time():
    for side, most in ((28, 250), (321, 2), (1000, 1)):
        pictures = request(np.zeros((5, side, side, 3), np.uint8), np.zeros(5, int), model=None)
        parts = list(batches(pictures))
        assert [i for part in parts for i in range(5)[part]] == [0, 1, 2, 3, 4]
        assert max(part.stop - part.start for part in parts) == most


def test_a_classifier_is_measured():
    images, labels = flat(150, 150, 20, 20, 20, 20), np.array([1, 1, 1, 0, 0, 0])
    (accuracy,) = measure_classifier(request(images, labels, model=BrightOrNot()))
    assert (accuracy.name, accuracy.value, accuracy.unit, accuracy.better) == ("accuracy", 83.33, "%", "higher")


class Colours:
    """A judge of two labels with names: whether a picture is bright, and whether it is not black."""

    def run(self, task, image):
        given = Features().run(task, image)
        if task == "features":
            return given
        return {"bright": given["label"], "lit": (image.max(axis=(1, 2, 3)) > 0).astype(np.int64)}


def test_a_classifier_of_named_labels_is_measured_by_those_that_the_data_have():
    images, none = flat(150, 150, 20, 20, 0, 0), np.full(6, -1)
    bright, lit = np.array([1, 1, 1, 0, 0, 0]), np.array([1, 1, 1, 1, 1, 0])
    metrics = measure_classifier(request(images, none, model=Colours(), arrays={"bright": bright}))
    assert [(m.name, m.value) for m in metrics] == [("bright_accuracy", 83.33)]
    metrics = measure_classifier(request(images, none, model=Colours(), arrays={"bright": bright, "lit": lit}))
    assert [(m.name, m.value) for m in metrics] == [("bright_accuracy", 83.33), ("lit_accuracy", 83.33)]


def test_named_labels_survive_a_codec():
    images, bright = flat(102, 110, 50, 50), np.array([1, 1, 0, 1])
    asked = request(images, np.full(4, -1), model=Darkener(), judge=Colours(), arrays={"bright": bright})
    values = {m.name: m.value for m in measure_codec(asked, num_codes=256)}
    assert values["bright_kept"] == 50 and values["bright_of_originals"] == 75
    assert "label_kept" not in values and "lit_kept" not in values


# --- Drawing ----------------------------------------------------------------------------------------------------------


class Lamp:
    """Draws pictures of noise: of mean 150 for label 1, of 50 for label 0, except every `wrong`-th, which is dark."""

    def __init__(self, wrong: int = 10**9):
        self.manifest = SimpleNamespace(
            tasks={"generate": SimpleNamespace(inputs={"seed": None, "label": None}, outputs={"image": None})}
        )
        self.wrong, self.seen = wrong, []

    def run(self, task, seed, label, **options):
        assert task == "generate"
        self.seen.append((list(seed), list(label), options))
        level = np.where((label == 1) & (seed % self.wrong != self.wrong - 1), 150, 50)
        return {"image": np.stack([picture(int(a), int(s)) for a, s in zip(level, seed, strict=True)])}


def picture(level: int, seed: int, size: int = 8) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(level, 9, (size, size, 1))
    return noise.clip(0, 255).astype(np.uint8)


class Features(BrightOrNot):
    """The judge above, with the pictures' rows as features."""

    def run(self, task, image):
        return (
            {"features": image.mean(axis=2)[..., 0].astype(np.float32)}
            if task == "features"
            else super().run(task, image)
        )


def drawing(model, number=300, **more):
    labels = np.arange(number) % 2
    real = np.stack([picture(150 if label else 50, 10_000 + i) for i, label in enumerate(labels)])
    training = np.stack([picture(150 if i % 2 else 50, 20_000 + i) for i in range(number)])
    asked = request(real, labels, model=model, judge=Features(), training_images=training, **more)
    return {m.name: m for m in measure_generator(asked)}


def test_pictures_like_the_real_ones_are_as_good_as_real_ones():
    metrics = drawing(Lamp())
    values = {name: m.value for name, m in metrics.items()}
    assert values["asked_label"] == 100 and values["worst_class_gap"] == 0
    assert values["frechet_distance"] < 3 * values["frechet_floor"]
    assert values["precision"] > 80 and values["recall"] > 80
    assert values["diversity"] == pytest.approx(1, abs=0.1)
    assert values["nearest_training"] == pytest.approx(1, abs=0.1)
    assert {m.samples for m in metrics.values()} == {300}
    assert {name for name, m in metrics.items() if not m.judge} == {"nearest_training"}


def test_what_is_asked_and_not_drawn_counts_in_its_class():
    values = {name: m.value for name, m in drawing(Lamp(wrong=10)).items()}
    assert values["asked_label"] == 90  # every tenth, all of label 1
    assert values["worst_class_gap"] == 20
    assert values["frechet_distance"] > 20 * values["frechet_floor"]


def test_copies_of_training_pictures_are_found_out():
    class Copier(Lamp):
        def run(self, task, seed, label, **options):
            return super().run(task, seed + 20_000, label, **options)

    assert drawing(Copier())["nearest_training"].value == 0


def test_seeds_labels_and_options_are_those_that_were_asked_for():
    lamp = Lamp()
    drawing(lamp, samples=301, options={"steps": 7})
    seeds = [seed for part, _, _ in lamp.seen for seed in part]
    labels = [label for _, part, _ in lamp.seen for label in part]
    assert seeds == list(range(301)) and labels == [i % 2 for i in range(300)] + [0]
    assert all(options == {"steps": 7} for _, _, options in lamp.seen)


class Painter:
    """Draws a text's first letter: `b` bright, anything else dark; with `bright` as a label that it does not obey."""

    manifest = SimpleNamespace(
        tasks={"generate": SimpleNamespace(inputs=dict.fromkeys(("seed", "text", "bright")), outputs={"image": None})}
    )

    def run(self, task, seed, text, bright):
        assert len(seed) == len(text) == len(bright)
        return {"image": np.stack([picture(150 if t[0] == "b" else 50, s) for t, s in zip(text, seed, strict=True)])}


def test_texts_and_named_labels_of_the_data_are_drawn_and_judged():
    texts, bright = np.array(["bright", "dark", "black"]), np.array([1, 0, 0])
    real = np.stack([picture(level, 10_000 + i) for i, level in enumerate((150, 50, 50))])
    asked = request(real, np.full(3, -1), model=Painter(), judge=Colours(), samples=5,
                    arrays={"text": texts, "bright": bright})  # fmt: skip
    metrics = {m.name: m for m in measure_generator(asked)}
    assert metrics["asked_bright"].value == 80 and metrics["real_bright"].value == 100  # "black" is drawn bright
    assert metrics["asked_bright"].judge == "bright:1" and "asked_label" not in metrics
