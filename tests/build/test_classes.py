"""What is said about checkpoints of classes that no family of zoo has."""

import pytest

from zoo.build.classes import FAMILIES, NEEDS, SIGNS, class_of, explain, require_class
from zoo.errors import InvalidFileError

REFUSED = {
    "AutoencoderTiny": "TAESD",
    "PixArtTransformer2DModel": "PixArt",
    "SanaTransformer2DModel": "Sana",
    "AutoencoderDC": "DC-AE",
    "FluxTransformer2DModel": "FLUX",
    "WanTransformer3DModel": "Wan",
    "AutoencoderKLWan": "Wan",
    "CogVideoXTransformer3DModel": "CogVideoX",
    "AsymmetricAutoencoderKL": "masked image",
    "LDMSuperResolutionPipeline": "super-resolution",
    "SuperResModel": "upsampler of ADM",
    "SiT-XL/2": "DiT trained as a flow",
}


@pytest.mark.parametrize(("name", "told"), REFUSED.items())
def test_a_known_class_is_explained(name, told):
    text = explain({"_class_name": name}, ())
    assert text.startswith(f"its class is {name}: ") and told in text and "need" in text and "\n" not in text
    with pytest.raises(InvalidFileError, match=f"x: _class_name is {name}; only DiT can be imported; it is "):
        require_class({"_class_name": name}, ("DiT",), "x")


@pytest.mark.parametrize("sign", SIGNS)
def test_a_file_without_a_config_is_explained_by_its_tensors(sign):
    assert explain(None, ["other", f"{sign}weight"]) == f"its tensors are those of {SIGNS[sign]}: {NEEDS[SIGNS[sign]]}"


def test_what_is_not_known_is_not_guessed():
    assert explain(None, ["a.weight"]) == "" and explain({"layers": 2}, ["a.weight"]) == ""
    assert explain({"_class_name": "Exotic\x1b"}, ()) == "its class is Exotic\\x1b"
    assert class_of({"model": {"target": "ldm.LatentDiffusion"}}) == ("model.target", "ldm.LatentDiffusion")
    assert class_of({"model": ["a"]}) == class_of(None) == ("", "")
    require_class(None, ("DiT",), "x")
    require_class({"_class_name": "a.b.DiT"}, ("DiT",), "x")
    for name in ("DiTTransformer2DModel", "LightningDiT", "DiTX"):
        with pytest.raises(InvalidFileError, match=f"_class_name is {name}; only DiT can be imported"):
            require_class({"_class_name": name}, ("DiT",), "x")


@pytest.mark.parametrize(("name", "family"), FAMILIES.items())
def test_a_class_of_another_family_names_the_command(name, family):
    assert (
        explain({"_class_name": name}, (), "other")
        == f"its class is {name}: of the family {family}: zoo import {family} …"
    )
    assert explain({"_class_name": name}, (), family) == f"its class is {name}"  # the command that was just tried
    with pytest.raises(InvalidFileError, match=f"zoo import {family} …"):
        require_class({"_class_name": name}, ("Other",), "x")
