"""`zoo train --stage prior`: a codec's next version that draws, and `--tile` on a codec."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo as package
from zoo.formats import manifest as manifests
from zoo.media.pictures import encode_png
from zoo.text import human_bytes

from .commands import zoo

PRIOR = ["--stage", "prior", "--preset", "tiny-prior", "--set", "prior.rows=4", "--set", "prior.columns=4"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*words: object) -> str:
    outcome = zoo(*words)
    assert outcome.code != 0 and outcome.err.count("\n") == 1, outcome
    return outcome.err


@pytest.mark.slow
def test_a_codec_gets_a_prior_and_stays_as_it_is(workshop, here):
    train = ["train", "vqvae", *PRIOR, "--from", workshop.codec, "--data", workshop.data]
    outcome = zoo(*train, "--set", "prior.num_classes=2", "--out", "drawing")
    assert outcome.code == 0, outcome.err
    manifest = manifests.read(here / "drawing")
    assert (manifest.name, manifest.version) == ("codec", 2) and manifest.training.parent.startswith("codec:1@sha256:")
    assert [*manifest.tasks] == ["reconstruct", "encode", "decode", "generate", "inpaint"]
    assert manifest.files["codec.safetensors"] == manifests.read(workshop.codec).files["codec.safetensors"]
    assert set(manifest.config) == {"codec", "prior"}

    model = package.load("./drawing", device="cpu")
    drawn = model.generate(seed=np.arange(3), label="disc")["image"]
    assert drawn.shape == (3, 16, 16, 1)
    assert (model.generate(seed=[1], label="disc")["image"] == drawn[1]).all(), "a seed's picture, in any batch"
    mask = np.zeros((3, 16, 16, 1), np.uint8)
    mask[:, :6] = 255
    inpainted = model.inpaint(image=drawn, mask=mask, seed=np.arange(5, 8), steps=2)["inpainted"]
    assert (inpainted[:, 6:] == drawn[:, 6:]).all() and inpainted.shape == drawn.shape

    assert "train it with --stage prior, or a new codec" in refused(
        "train", "vqvae", "--from", "./drawing", "--data", workshop.data, "--batch-size", 8, "--out", "x"
    )


@pytest.mark.slow
def test_an_autoregressive_prior_from_its_training_to_a_pulled_model(workshop, here):
    words = [*PRIOR, "--set", "prior.kind=autoregressive", "--set", "prior.num_classes=2", "--steps", 5]
    outcome = zoo("train", "vqvae", *words, "--from", workshop.codec, "--data", workshop.data, "--out", "drawing")
    assert outcome.code == 0, outcome.err
    for bundle in (workshop.codec, "drawing"):
        assert zoo("publish", bundle, "--to", "shelf").code == 0
    assert zoo("registry", "add", "shelf", "shelf").code == 0
    assert zoo("pull", "shelf/codec:1").code == 0
    pulled = zoo("pull", "shelf/codec:2")
    second, had = Path(pulled.out.strip()), {file.sha256 for file in manifests.read(workshop.codec).files.values()}
    assert (second / "codec.safetensors").read_bytes() == (workshop.codec / "codec.safetensors").read_bytes()
    new = [file.size for file in manifests.read(second).files.values() if file.sha256 not in had]
    new.append((second / "model.yaml").stat().st_size)
    assert pulled.err == f"shelf/codec:2: {human_bytes(sum(new))} to fetch\n", "the codec is in the store already"
    assert zoo("verify", "shelf/codec:2", "--replay", "--device", "cpu").code == 0

    tasks = manifests.read(second).tasks
    assert [*tasks] == ["reconstruct", "encode", "decode", "generate"]
    assert [*tasks["generate"].inputs] == ["seed", "temperature", "top_k", "top_p", "label", "guidance"]
    draw = ["run", "codec", "generate", "--label", "disc", "--device", "cpu"]
    assert zoo(*draw, "-n", 4, "--seed", 3, "--out", "four-{i}.png").code == 0
    for i in range(4):
        assert zoo(*draw, "--seed", 3 + i, "--out", "one.png").code == 0
        alone, among = (np.asarray(Image.open(name)) for name in ("one.png", f"four-{i}.png"))
        assert alone.shape == (16, 16) and (alone == among).all()
    model = package.load("codec", device="cpu")
    assert len({picture.tobytes() for picture in model.generate(seed=np.arange(3, 7), label=1)["image"]}) == 4
    assert "No such option '--steps'" in refused(*draw, "--steps", 3)
    assert "codec has no task 'inpaint'" in refused("run", "codec", "inpaint")


def test_a_prior_needs_a_codec_and_its_tokens(workshop):
    data = ["--data", workshop.data, "--out", "x"]
    assert "name it with --from MODEL" in refused("train", "vqvae", *PRIOR, *data)
    wrong = [word.replace("rows=4", "rows=7") for word in PRIOR]
    said = refused("train", "vqvae", *wrong, "--from", workshop.codec, *data)
    assert "codec:1 is for grey pictures of 16x28, and data has grey pictures of 16x16" in said
    assert "a label is 1, but prior.num_classes is 1" in refused(
        "train", "vqvae", *PRIOR, "--set", "prior.num_classes=1", "--from", workshop.codec, *data
    )


def test_files_without_an_option_are_the_pictures_or_the_tokens(workshop, here):
    (here / "x.png").write_bytes(encode_png(np.zeros((16, 20, 1), np.uint8)))
    assert zoo("run", workshop.codec, "encode", "x.png", "--out", "t.npy").code == 0
    assert np.load(here / "t.npy").shape == (1, 4, 5)
    assert zoo("run", workshop.codec, "decode", "t.npy", "--out", "y.png").out == "y.png\n"
    assert "give image only once" in refused("run", workshop.codec, "encode", "x.png", "--image", "x.png")
    assert "decode takes one file for tokens, not 2" in refused("run", workshop.codec, "decode", "t.npy", "t.npy")


@pytest.mark.slow
def test_tiles_give_the_picture_of_one_call(workshop, here):
    picture = np.random.default_rng(0).integers(0, 256, (90, 131, 1), dtype=np.uint8)
    (here / "x.png").write_bytes(encode_png(picture))
    results = []
    for out, tile in (("whole", []), ("tiled", ["--tile", 24])):
        assert zoo("run", workshop.codec, "--image", "x.png", "--out", f"{out}.png", *tile).code == 0
        assert zoo("run", workshop.codec, "encode", "--image", "x.png", "--out", f"{out}.safetensors", *tile).code == 0
        decode = ["run", workshop.codec, "decode", "--tokens", f"{out}.safetensors", "--out", f"{out}-decoded.png"]
        assert zoo(*decode, *tile).code == 0
        results.append([(here / f"{out}{end}").read_bytes() for end in (".safetensors",)])
    for name in ("{}.png", "{}-decoded.png"):
        a, b = (np.asarray(Image.open(name.format(out))).astype(int) for out in ("whole", "tiled"))
        assert a.shape == (90, 131) and np.abs(a - b).max() <= 1
    assert results[0] == results[1], "the same tokens"
    assert "--tile is 2; it must be at least 4" in refused("run", workshop.codec, "--image", "x.png", "--tile", 2)
