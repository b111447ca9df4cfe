"""What the commands that make models share: data, and two models trained on them once a session."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.once import made_once

from .commands import zoo


@dataclass(frozen=True)
class Workshop:
    """A folder with `data.npz` (parts train and test) and the finished trainings of a codec and of its judge."""

    folder: Path
    data: Path
    codec: Path  # bundle of the family vqvae; its training lies in `codec.training` beside it
    judge: Path


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data.npz`: 60 squares and discs to train on, 30 to test with."""
    from tests.trainers import drawings  # which needs torch

    path = tmp_path_factory.mktemp("drawn") / "data.npz"
    train, test = drawings(60, size=16), drawings(30, size=16, seed=1)
    np.savez(
        path,
        train_images=train.images,
        train_labels=train.labels,
        test_images=test.images,
        test_labels=test.labels,
        classes=np.array(train.classes),
    )
    return path


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> Workshop:
    """Two small trained models, which all workers of a run share: the first that needs them trains them."""
    folder = made_once(tmp_path_factory, "workshop", lambda folder: _train(_in(folder, drawn)))
    return _in(folder, drawn)


def _in(folder: Path, data: Path) -> Workshop:
    return Workshop(folder, data, folder / "codec", folder / "judge")


def _train(made: Workshop) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_HOME", str(made.folder / "home"))
        for family, out in (("vqvae", made.codec), ("judge", made.judge)):
            classes = ["--set", "num_classes=2"] if family == "judge" else []
            words = ["--data-name", "drawings", "--data-license", "CC0-1.0", *classes]
            outcome = zoo("train", family, "--data", made.data, "--preset", "tiny", "--out", out, *words)
            assert outcome.code == 0, outcome.err
            assert outcome.out == f"{out}\n"
