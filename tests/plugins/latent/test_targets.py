"""Words in every stack: a latent model's exports draw what `zoo run` draws from the same text and seed."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from zoo_targets.web import browser

import zoo
from tests.cli.commands import zoo as command
from tests.plugins.targets.conftest import chromium, compiled_once, playwright  # noqa: F401 - fixtures
from tests.plugins.targets.hosts import HOSTS, Host, call, need
from tests.plugins.targets.test_web import Asked, serving
from zoo.site import Site

from .conftest import EXAMPLES

pytestmark = pytest.mark.slow

PARTS = ("--task", "generate_begin", "--task", "generate_step", "--task", "generate_end")
STACKS = HOSTS | {
    "openvino": Host("openvino", HOSTS["python"].command, lambda: "" if find_spec("openvino") else "openvino"),
    "onnx": Host("onnx", HOSTS["python"].command, lambda: ""),
    "onnx, loop in NumPy": Host("onnx", HOSTS["python"].command, lambda: ""),
}


@pytest.fixture(scope="module")
def expected(exported: Path) -> np.ndarray:
    """What two texts draw: int [2, 16, 16, 3]."""
    model = zoo.load(str(exported), device="cpu")
    drawn = model.generate(text=["red apple", "猫, it's"], negative="old", style="round", seed=[7, 8])["image"]
    assert np.abs(drawn[0].astype(int) - drawn[1]).max() > 20
    assert np.abs(drawn - model.generate(text="", style="round", seed=[7, 8])["image"]).max() > 20  # words count
    return drawn.astype(int)


@pytest.mark.parametrize("stack", STACKS)
def test_the_same_words_and_seed_draw_the_same_picture(exported, expected, tmp_path, stack):
    host = STACKS[stack]
    need(host.missing())
    out = tmp_path / "out"
    done = command("export", exported, "--target", host.target, "-o", out, *(PARTS if "loop" in stack else ()))
    assert done.code == 0, done.err
    done = command("verify", out, "--run-host", "--json")
    assert done.code == 0, done.err
    tasks = {row["task"] for row in json.loads(done.out)[0]["host"]}
    assert ("generate_step" if "loop" in stack else "inpaint") in tasks
    words = ("--text", "red apple", "--text", "猫, it's", "--negative", "old", "--style", "round", "--seed", "7,8")
    done = call(host, out, "generate", *words, "--out", tmp_path / "drawn.png")
    assert done.returncode == 0, done.stderr
    drawn = np.asarray(Image.open(tmp_path / "drawn.png")).reshape(expected.shape)
    assert np.abs(drawn - expected).max() <= 1
    said = (out / "README.md").read_text() if "loop" not in stack else '--text "a red apple"'
    assert '--text "a red apple"' in said and EXAMPLES[1] not in said  # a model's own words are not pasted


def test_a_loop_outside_of_the_graphs_needs_one_for_the_tokenizer(exported, tmp_path):
    """Merges by rank are a Loop, so stacks without it get nothing that reads a text, and the reason."""
    done = command("export", exported, "--target", "onnx", "--no-loop", *PARTS, "-o", tmp_path / "out")
    assert done.code != 0 and "generate_begin" in done.err and "it has no Loop" in done.err
    assert done.err.count("\n") == 1 and not (tmp_path / "out").exists()


# --- The page ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("" if browser() else "Chromium")
    folder = tmp_path_factory.mktemp("words") / "site"
    done = command("export", exported, "--target", "web", "-o", folder)
    assert done.code == 0, done.err
    return folder


PIXELS = """(index) => {
    const canvas = document.querySelectorAll("#outputs canvas[data-port=image]")[index];
    const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return [height, width, Array.from(data)];
}"""


def pixels(page, index: int = 0) -> np.ndarray:
    height, width, data = page.evaluate(PIXELS, index)
    return np.array(data).reshape(height, width, 4)[..., :3]


def test_the_page_draws_from_words_step_by_step(chromium, site, expected):  # noqa: F811
    with serving(Site(site)) as url:
        asked = Asked(chromium, f"{url}?device=wasm")
        page = asked.page
        page.uncheck("#live")
        page.select_option("#port-seed-many", "1")
        for port, value in {"seed": "7", "text": "red apple", "negative": "old"}.items():
            page.fill(f"#port-{port}", value)
        page.select_option("#port-style", label="round")
        page.evaluate("""() => {
            window.told = [];
            new MutationObserver(() => told.push(document.querySelector("#clock").textContent))
                .observe(document.querySelector("#clock"), { childList: true });
        }""")
        asked.go()
        assert np.abs(pixels(page) - expected[0]).max() <= 1
        assert "Step 3 of 3" in " ".join(page.evaluate("told"))  # the parts of the loop, not the whole graph
        assert page.text_content("#outputs .chosen").startswith("red apple, negative old, round, seed 7")
        assert "text=red+apple" in page.url
        asked.page.close()
        assert asked.errors == []


def test_examples_can_be_clicked_and_live_calls_follow_the_text(chromium, site):  # noqa: F811
    with serving(Site(site)) as url:
        asked = Asked(chromium, f"{url}?device=wasm")
        page = asked.page
        assert page.input_value("#port-text") == EXAMPLES[0] and page.input_value("#port-negative") == ""
        page.check("#live")
        page.locator("#ports").get_by_role("button", name=EXAMPLES[1]).click()
        page.wait_for_selector("html[data-live='1']", timeout=30_000)
        assert page.input_value("#port-text") == EXAMPLES[1]
        before = pixels(page)
        page.fill("#port-text", "the sun")
        page.wait_for_selector("html[data-live='2']", timeout=30_000)
        assert np.abs(pixels(page) - before).max() > 20
        page.uncheck("#live")
        page.focus("#port-text")
        page.keyboard.press("Enter")
        page.wait_for_selector("html[data-drawn='1']", timeout=30_000)
        assert page.input_value("#port-text") == "the sun"
        for text, says in {
            "x" * 25: "Error: text is 25 bytes of UTF-8; it must be at most 24",
            "猫" * 9: "Error: text is 27 bytes of UTF-8; it must be at most 24",
            "a\0b": "Error: text contains a zero byte, which marks the end of a text",
        }.items():
            page.fill("#port-text", text)
            page.click("#go")
            asked.wait("#status", says)
        asked.page.close()
        assert asked.errors == []
