"""The config: what comes from the data and the codec, and what is refused."""

import pytest
from zoo_latent.config import codec_config, fitted
from zoo_latent.plugin import list_tasks, validate_config
from zoo_vqgan.config import CodecConfig, KLConfig
from zoo_vqvae.config import CodecConfig as PlainCodecConfig

from zoo.errors import UsageError
from zoo.hookspecs import ArrayFacts, ConfigRequest, DataFacts, TasksRequest

from .models import CODEC, DIFFUSION, NETWORK, STYLES, TEXT, plain


@pytest.mark.parametrize(
    "codec, kind",
    [({}, KLConfig), ({"num_codes": 32}, CodecConfig), ({"hidden_channels": 16}, PlainCodecConfig)],
)
def test_a_codec_is_of_the_family_whose_fields_it_has(codec, kind):
    assert type(codec_config(codec)) is kind


def test_size_channels_words_and_styles_come_from_the_data():
    arrays = {
        "text": ArrayFacts(dtype="uint8", shape=(64,)),
        "style": ArrayFacts(dtype="int64", shape=(), classes=("a", "b")),
    }
    data = DataFacts(height=32, width=48, channels=3, number=10, arrays=arrays)
    found = fitted({"codec": CODEC, "labels": {"name": "style"}, "network": {"widths": [16]}}, data)
    assert (found["network"]["image_size"], found["network"]["image_width"]) == (16, 24)  # the codec's factor is 2
    assert found["network"]["num_classes"] == 2 and found["labels"]["classes"] == ["a", "b"]
    assert found["text"] == {} and found["codec"]["image_channels"] == 3


def test_without_captions_there_are_no_words_and_labels_are_the_datas():
    found = fitted({"codec": CODEC, "network": {}}, DataFacts(height=64, width=64, channels=3, classes=("cat", "dog")))
    assert found["text"] is None and found["labels"] == {} and found["network"]["num_classes"] == 2


def test_a_size_that_codec_and_denoiser_cannot_halve_names_the_nearest():
    with pytest.raises(UsageError, match=r"the sides must be multiples of 4 for this latent: give --image-size 16"):
        fitted({"codec": CODEC, "network": {"widths": [16, 16]}}, DataFacts(height=17, width=17, channels=3))


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"network": NETWORK | {"image_channels": 3}}, "network.image_channels is 3; the codec's latents have 4"),
        ({"text": None, "network": NETWORK | {"context_width": 8}}, "network.context_width is 8; without text"),
        ({"text": TEXT | {"heads": 3}}, "text.heads is 3; it must divide the width 16"),
        ({"labels": {"name": "style", "classes": ["a"]}}, "labels.classes is ['a']; network.num_classes is 3"),
        ({"diffusion": DIFFUSION | {"clip": True}}, "diffusion.clip is True; latents are not limited"),
        ({"codec": CODEC | {"widths": [6]}}, "codec.widths is [6]; each must be a multiple of norm_groups"),
    ],
)
def test_a_field_that_does_not_fit_is_refused_by_name(changes, line):
    with pytest.raises(UsageError) as refused:
        plain(**changes)
    assert line in str(refused.value)


def test_the_ports_are_those_of_the_config():
    tasks = list_tasks(TasksRequest(family="latent", config=plain()))
    assert list(tasks.tasks["generate"].inputs) == ["seed", "steps", "text", "negative", "style", "guidance"]
    assert tasks.tasks["generate"].inputs["style"].classes == tuple(STYLES)
    assert set(tasks.example) == {"text", "style"}
    bare = plain(text=None, labels=None, network=NETWORK)
    tasks = list_tasks(TasksRequest(family="latent", config=bare))
    assert list(tasks.tasks["generate"].inputs) == ["seed", "steps"] and not tasks.example


def test_an_unknown_task_is_refused():
    config = dict(validate_config(ConfigRequest(family="latent", config=plain() | {"tasks": ["upscael"]})))
    with pytest.raises(UsageError, match="'upscael' is not one of generate"):
        list_tasks(TasksRequest(family="latent", config=config))
