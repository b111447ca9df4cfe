"""A small latent model that is exported once for all tests of its graphs."""

from pathlib import Path

import pytest

from tests.once import made_once
from zoo import plugins
from zoo.build.export import export_bundle
from zoo.formats.manifest import Training

from .models import ASSETS, TEXT, made, plain

EXAMPLES = ["red apple", "a green heart"]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16x16 pictures by words and styles; about a minute of processor time. Not to be changed."""
    return made_once(tmp_path_factory, "words", lambda folder: _export(folder / "words")) / "words"


def _export(out: Path) -> None:
    config = plain(text={**TEXT, "examples": EXAMPLES}, tasks=["generate", "inpaint"])
    parts, _ = made(config)
    export_bundle(
        out=out,
        name="words",
        version=1,
        family="latent",
        loaded=plugins.load("latent"),
        config=config,
        module=parts,
        assets=ASSETS,
        summary="Random weights",
        license="Apache-2.0",
        training=Training(),
    )
