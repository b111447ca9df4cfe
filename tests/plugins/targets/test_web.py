"""The page in headless Chromium: what it draws, what it says, and that it asks for nothing outside its folder."""

import json
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from PIL import Image
from zoo_targets.web import browser, flags

from tests import tiny
from tests.cli.commands import zoo
from tests.tiny_tasks import studio
from zoo.formats import manifest as manifests
from zoo.hookspecs import Port, Task
from zoo.media import tensors
from zoo.site import Site

from .hosts import HOSTILE, NODE_MODULES, hostile, need

pytestmark = pytest.mark.slow

SCREENSHOTS = Path(__file__).parents[3] / "build" / "screenshots"
"""Kept by CI for people to look at."""

INPAINT = """<ir_version: 8, opset_import: ["" : 17]>
inpaint (uint8[batch,height,width,1] image, uint8[batch,height,width,1] mask, int64[batch] seed)
  => (uint8[batch,height,width,1] inpainted)
  <int64[3] axes = {1, 2, 3}, int64 m = {256}, int64 half = {127}> {
    small = Mod(seed, m)
    wide = Unsqueeze(small, axes)
    drawn = Cast<to = 2>(wide)
    level = Cast<to = 7>(mask)
    anew = Greater(level, half)
    inpainted = Where(anew, drawn, image)
}"""


# The studio's `generate` as begin, step and end: x starts at 31 seed + 7 label, and each step adds its row.
PARTS = {
    "generate_begin": """<ir_version: 8, opset_import: ["" : 17]>
generate_begin (int64[batch] label, int64[batch] seed, int64 steps)
  => (float[batch,1,8,8] x, float[batch,1,8,8] previous_x0, float[50,1] plan)
  <int64 a = {31}, int64 b = {7}, int64[3] axes = {1, 2, 3}, int64[4] shape = {1, 1, 8, 8},
   int64 zero = {0}, int64 one = {1}, int64 most = {50}, int64[1] last = {1}> {
    s = Mul(seed, a)
    l = Mul(label, b)
    both = Add(s, l)
    wide = Unsqueeze(both, axes)
    whole = Expand(wide, shape)
    x = Cast<to = 1>(whole)
    previous_x0 = Identity(x)
    numbers = Range(zero, most, one)
    used = Less(numbers, steps)
    ones = Cast<to = 1>(used)
    plan = Unsqueeze(ones, last)
}""",
    "generate_step": """<ir_version: 8, opset_import: ["" : 17]>
generate_step (float[batch,1,8,8] x, float[batch,1,8,8] previous_x0, float[1] row)
  => (float[batch,1,8,8] next_x, float[batch,1,8,8] x0) {
    next_x = Add(x, row)
    x0 = Identity(previous_x0)
}""",
    "generate_end": """<ir_version: 8, opset_import: ["" : 17]>
generate_end (float[batch,1,8,8] x) => (uint8[batch,8,8,1] image)
  <int64 m = {256}, int64[1] axis = {1}, int64[1] last = {3}> {
    whole = Cast<to = 7>(x)
    small = Mod(whole, m)
    flat = Squeeze(small, axis)
    wide = Unsqueeze(flat, last)
    image = Cast<to = 2>(wide)
}""",
}

# As many additions as `rounds` says: a graph that takes any time.
SLOW = """<ir_version: 8, opset_import: ["" : 17]>
slow (int64[batch] seed, int64 rounds) => (int64[batch] sum) <bool go = {1}> {
    sum = Loop(rounds, go, seed) <body = step (int64 i, bool c, int64[batch] x) => (bool d, int64[batch] y)
      <int64 one = {1}> { d = Identity(c)  y = Add(x, one) }>
}"""


def with_steps(folder: Path) -> Path:
    """The studio, with the parts of `generate` and a task that can take very long."""
    bundle = studio(folder)
    for name, text in (PARTS | {"slow": SLOW}).items():
        onnx.save_model(onnx.parser.parse_model(text), bundle / f"{name}.onnx")
    manifest = manifests.read(bundle)
    whole = manifest.tasks["generate"]
    latents = Port(kind="tensor", dtype="float32", shape=("batch", 1, 8, 8))
    plan = Port(kind="tensor", dtype="float32", shape=(50, 1))
    row = Port(kind="tensor", dtype="float32", shape=(1,))
    rounds = Port(kind="count", dtype="int64", shape=(), minimum=1, maximum=10**9, default=1000)
    number = Port(kind="label", dtype="int64", shape=("batch",))
    begin = {name: whole.inputs[name] for name in ("label", "seed", "steps")}
    parts = {
        "generate_begin": Task(
            summary="begin", inputs=begin, outputs={"x": latents, "previous_x0": latents, "plan": plan}
        ),
        "generate_step": Task(
            summary="step",
            inputs={"x": latents, "previous_x0": latents, "row": row},
            outputs={"next_x": latents, "x0": latents},
        ),
        "generate_end": Task(summary="end", inputs={"x": latents}, outputs=whole.outputs),
    }
    tasks = {name: msgspec.structs.replace(part, part_of="generate") for name, part in parts.items()}
    tasks["slow"] = Task(summary="Counts", inputs={"seed": begin["seed"], "rounds": rounds}, outputs={"sum": number})
    x = np.arange(2 * 64, dtype=np.float32).reshape(2, 1, 8, 8)
    starts = (np.array([1, 2]) * 31 + np.array([0, 1]) * 7).astype(np.float32)[:, None, None, None]
    cases = {
        "generate_begin": (
            {"label": np.array([0, 1]), "seed": np.array([1, 2]), "steps": np.array(3)},
            {
                "x": np.broadcast_to(starts, x.shape).copy(),
                "previous_x0": np.broadcast_to(starts, x.shape).copy(),
                "plan": (np.arange(50) < 3).astype(np.float32)[:, None],
            },
        ),
        "generate_step": (
            {"x": x, "previous_x0": x + 5, "row": np.ones(1, np.float32)},
            {"next_x": x + 1, "x0": x + 5},
        ),
        "generate_end": ({"x": x}, {"image": x.astype(np.uint8).transpose(0, 2, 3, 1)}),
        "slow": ({"seed": np.array([7]), "rounds": np.array(2000)}, {"sum": np.array([2007])}),
    }
    golden = tensors.load(bundle / "golden.safetensors") | {
        f"{task}/0/{side}/{port}": np.array(array, order="C")
        for task, sides in cases.items()
        for side, ports in zip(("inputs", "outputs"), sides, strict=True)
        for port, array in ports.items()
    }
    return rewritten(bundle, manifest, tasks, golden)


def rewritten(
    bundle: Path, manifest: manifests.Manifest, tasks: dict[str, Task], golden: dict[str, np.ndarray]
) -> Path:
    """The bundle with additional tasks."""
    tensors.save(bundle / "golden.safetensors", golden)
    files = {p.name: manifests.describe_file(p) for p in sorted(bundle.iterdir()) if p.name != "model.yaml"}
    manifest = msgspec.structs.replace(manifest, tasks=manifest.tasks | tasks, files=files)
    (bundle / "model.yaml").write_bytes(manifests.dump(manifest))
    return bundle


def with_inpaint(folder: Path) -> Path:
    """The studio, and a task that puts the seed where the mask is white."""
    bundle = studio(folder)
    onnx.save_model(onnx.parser.parse_model(INPAINT), bundle / "inpaint.onnx")
    manifest = manifests.read(bundle)
    image = manifest.tasks["reconstruct"].inputs["image"]
    mask = Port(kind="mask", dtype="uint8", shape=("batch", "height", "width", 1))
    seed = manifest.tasks["generate"].inputs["seed"]
    task = Task(summary="Draws anew", inputs={"image": image, "mask": mask, "seed": seed}, outputs={"inpainted": image})
    golden = tensors.load(bundle / "golden.safetensors")
    picture = golden["reconstruct/0/inputs/image"]
    golden |= {
        "inpaint/0/inputs/image": picture,
        "inpaint/0/inputs/mask": (picture % 2 * 255).astype(np.uint8),
        "inpaint/0/inputs/seed": np.array([5, 6]),
        "inpaint/0/outputs/inpainted": np.where(
            picture % 2, np.array([5, 6], np.uint8)[:, None, None, None], picture
        ).astype(np.uint8),
    }
    return rewritten(bundle, manifest, {"inpaint": task}, golden)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    need("" if browser() else "Chromium")
    place = tmp_path_factory.mktemp("web")
    done = zoo("export", with_inpaint(place / "studio"), "--target", "web", "-o", place / "out")
    assert done.code == 0, done.err
    return place / "out"


@pytest.fixture(scope="module")
def site(folder):
    with serving(Site(folder)) as url:
        yield url


class serving:
    """A server that runs in a thread, as a context; gives its address."""

    def __init__(self, server):
        self.server = server

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_address[1]}/"

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()


class Asked:
    """A page, and every address that it asked for."""

    def __init__(self, chromium, url, ready="html[data-ready]", **options):
        self.page = chromium.new_page(viewport={"width": 1100, "height": 900}, **options)
        self.addresses, self.errors = [], []
        self.page.on("request", lambda request: self.addresses.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append(f"dialog {dialog.message}"))
        self.page.goto(url)
        self.page.wait_for_selector(ready, timeout=60_000)
        self.drawn = 0

    def go(self, button="#go"):
        self.drawn += 1
        self.page.click(button)
        self.page.wait_for_selector(f"html[data-drawn='{self.drawn}']", timeout=30_000)

    def pixels(self, port, index=0):
        """The canvas of an output, uint8 [height, width]."""
        script = """([port, index]) => {
            const canvas = document.querySelectorAll(`#outputs canvas[data-port=${port}]`)[index];
            const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return [height, width, Array.from(data)];
        }"""
        height, width, data = self.page.evaluate(script, [port, index])
        rgba = np.array(data, np.uint8).reshape(height, width, 4)
        assert (rgba[..., 0] == rgba[..., 1]).all() and (rgba[..., 3] == 255).all()
        return rgba[..., 0]

    def status(self):
        return self.page.text_content("#status")

    def choose(self, task):
        self.page.click(f"#task-{task}")

    def wait(self, selector, text):
        """For an element with this text, the whole of it or a pattern."""
        exact = re.compile(f"^{re.escape(text)}$") if isinstance(text, str) else text
        self.page.locator(selector, has_text=exact).first.wait_for()


@pytest.fixture
def asked(chromium, site, request):
    opened = Asked(chromium, f"{site}?device=wasm")
    yield opened
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    opened.page.screenshot(path=SCREENSHOTS / f"{request.node.name}.png", full_page=True)
    opened.page.close()
    assert opened.errors == []
    assert all(url.startswith((site, "blob:", "data:")) for url in opened.addresses)


@pytest.fixture(scope="module")
def stepping(tmp_path_factory):
    """The address of a page with the parts of a sampler, and with a task that can take very long."""
    need("" if browser() else "Chromium")
    place = tmp_path_factory.mktemp("stepping")
    done = zoo("export", with_steps(place / "studio"), "--target", "web", "-o", place / "out")
    assert done.code == 0, done.err
    with serving(Site(place / "out")) as url:
        yield f"{url}?device=wasm"


def picture_file(path, height=8, width=12):
    pixels = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    Image.fromarray(pixels).save(path)
    return pixels


def test_every_task_gives_its_golden_outputs(folder):
    done = zoo("verify", folder, "--run-host", "--json")
    assert done.code == 0, done.err
    (report,) = json.loads(done.out)
    tasks = ["reconstruct", "encode", "decode", "generate", "classify", "inpaint"]
    assert [row["task"] for row in report["host"]] == tasks
    assert "onnxruntime-web" in report["ran_by"] and "wasm" in report["ran_by"]


def test_it_draws_the_golden_pictures(asked, folder):
    golden = tensors.load(folder / "model" / "golden.safetensors")
    page = asked.page
    asked.choose("generate")
    for i in range(2):
        page.fill("#port-seed", str(golden["generate/0/inputs/seed"][i]))
        page.select_option("#port-label", str(golden["generate/0/inputs/label"][i]))
        page.fill("#port-steps", "20")
        page.fill("#port-guidance", "0")
        asked.go()
        np.testing.assert_array_equal(asked.pixels("image"), golden["generate/0/outputs/image"][i, ..., 0])
    assert "s on WebAssembly" in asked.status()


def test_several_pictures_have_seeds_one_after_the_other(asked):
    asked.choose("generate")
    asked.page.fill("#port-seed", "3")
    asked.page.select_option("#port-seed-many", "4")
    asked.go()
    drawn = [int(asked.pixels("image", i)[0, 0]) for i in range(4)]
    assert drawn == [(31 * (3 + i) - 7 + 20) % 256 for i in range(4)]
    asked.go("#again")
    assert asked.page.input_value("#port-seed") != "3"


def test_a_picture_goes_in_by_button_and_by_drag_and_drop(asked, tmp_path):
    pixels = picture_file(tmp_path / "a.png")
    asked.choose("reconstruct")
    asked.page.set_input_files("#port-image", tmp_path / "a.png")
    asked.page.wait_for_selector(".drop canvas:visible")
    asked.go()
    np.testing.assert_array_equal(asked.pixels("reconstruction"), pixels)
    asked.choose("classify")
    data = list((tmp_path / "a.png").read_bytes())
    transfer = asked.page.evaluate_handle(
        """(data) => { const t = new DataTransfer();
        t.items.add(new File([new Uint8Array(data)], "a.png", { type: "image/png" })); return t; }""",
        data,
    )
    asked.page.dispatch_event(".drop", "drop", {"dataTransfer": transfer})
    asked.page.wait_for_selector(".drop canvas:visible")
    asked.go()
    assert asked.page.locator(".bars li span").first.text_content() == "Shirt"


def test_tokens_go_from_encode_to_decode(asked, tmp_path):
    pixels = picture_file(tmp_path / "a.png")
    asked.choose("encode")
    asked.page.set_input_files("#port-image", tmp_path / "a.png")
    asked.page.wait_for_selector(".drop canvas:visible")
    asked.go()
    with asked.page.expect_download() as download:
        asked.page.get_by_role("button", name="Download tokens").click()
    tokens = np.load(download.value.path())
    np.testing.assert_array_equal(tokens, pixels[None, ::4, ::4].astype(np.int64) // 64)
    asked.page.locator("#outputs").get_by_role("button", name="Decode").click()
    asked.go()
    expected = (tokens[0].repeat(4, axis=0).repeat(4, axis=1) * 64).astype(np.uint8)
    np.testing.assert_array_equal(asked.pixels("image"), expected)
    np.save(tmp_path / "other.npy", tokens * 0 + 3)
    asked.page.set_input_files("#port-tokens", tmp_path / "other.npy")
    asked.page.locator("#ports pre", has_text="3, 3, 3").wait_for()
    asked.go()
    assert set(asked.pixels("image").flat) == {192}


def test_a_mask_is_painted_with_pointer_and_keyboard(asked, tmp_path):
    pixels = picture_file(tmp_path / "a.png")
    page = asked.page
    asked.choose("inpaint")
    page.set_input_files("#port-image", tmp_path / "a.png")
    page.wait_for_selector("#port-mask[width='12']")
    page.fill("#port-seed", "200")
    page.locator("[aria-label='Brush size']").fill("1")
    box = page.locator("#port-mask").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 2.5 / 12, box["y"] + box["height"] * 1.5 / 8)
    asked.go()
    changed = np.argwhere(asked.pixels("inpainted") != pixels)
    assert [1, 2] in changed.tolist() and len(changed) <= 5 and asked.pixels("inpainted")[1, 2] == 200
    page.get_by_role("button", name="Clear").click()
    page.focus("#port-mask")
    for key in ("ArrowRight", "ArrowDown", " "):
        page.keyboard.press(key)
    asked.go()
    assert [2, 3] in np.argwhere(asked.pixels("inpainted") != pixels).tolist()


def test_the_keyboard_alone_is_enough(asked):
    page = asked.page
    page.focus("#task-reconstruct")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.id") == "task-generate"
    page.wait_for_selector("#outputs .tile")
    passed = []
    while "port-seed" not in passed:  # the examples come first, as they do on the screen: one stop, and its buttons
        page.keyboard.press("Tab")
        passed.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        assert len(passed) < 12
    assert passed[-2:] == ["port-label", "port-seed"] and "Use its inputs" in passed
    page.keyboard.press("Control+A")
    page.keyboard.type("9")
    page.keyboard.press("Enter")
    page.wait_for_selector("html[data-drawn='1']")
    assert (asked.pixels("image") == (31 * 9 - 7 + 20) % 256).all()


# --- The first look, at every width -----------------------------------------------------------------------------------

WIDTHS = {"phone": (390, 844), "tablet": (820, 1180), "desktop": (1440, 900)}
TASKS = ("reconstruct", "encode", "decode", "generate", "classify", "inpaint")


def violations(page):
    """What axe-core finds, in short; the file is injected past the page's own policy, which lets nothing in."""
    if not page.evaluate("'axe' in window"):
        page.evaluate((NODE_MODULES / "axe-core" / "axe.min.js").read_text())
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    assert len(found["passes"]) > 10
    return [f"{v['id']}: {node['html'][:100]}" for v in found["violations"] for node in v["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_in_order_at_every_width(chromium, site, width, scheme):
    need("" if (NODE_MODULES / "axe-core").is_dir() else "axe-core")
    asked = Asked(chromium, f"{site}?device=wasm", color_scheme=scheme, reduced_motion="reduce")
    page, (wide, high) = asked.page, WIDTHS[width]
    page.set_viewport_size({"width": wide, "height": high})
    colours = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    luminance = [sum(map(int, colour[4:-1].split(","))) / 765 for colour in colours]
    assert (luminance[0] > 0.9 > 0.2 > luminance[1]) if scheme == "light" else (luminance[0] < 0.2 < 0.8 < luminance[1])
    for task in TASKS:
        asked.choose(task)
        page.wait_for_selector("#outputs > *")

        in_order(page, wide)
        assert violations(page) == [], task
    asked.choose("generate")
    page.select_option("#port-seed-many", "4")
    asked.go()
    in_order(page, wide)
    page.click("footer summary")
    page.click("#check")
    page.wait_for_selector("#checked:visible")
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= wide
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{width}-{scheme}.png")
    page.close()
    assert asked.errors == []


def in_order(page, wide):
    """The result is beside or above the form and in sight; nothing is cut at the side; controls are large enough."""
    box = {name: page.locator(f"#{name}").bounding_box() for name in ("result", "form")}
    above = box["result"]["y"] + box["result"]["height"] <= box["form"]["y"]
    beside = box["result"]["x"] + box["result"]["width"] <= box["form"]["x"] and box["result"]["y"] == box["form"]["y"]
    assert above if wide < 500 else beside
    assert page.evaluate("document.documentElement.scrollWidth") <= wide
    assert page.locator("#outputs .tile").first.bounding_box()["y"] < 400
    small = page.evaluate("""[...document.querySelectorAll("button:not([hidden]), select")]
        .filter((e) => e.offsetParent).map((e) => e.getBoundingClientRect().height).filter((h) => h < 30)""")
    assert small == []


def test_axe_would_find_something(chromium, site):
    need("" if (NODE_MODULES / "axe-core").is_dir() else "axe-core")
    asked = Asked(chromium, f"{site}?device=wasm")
    asked.page.evaluate("document.querySelector('label[for=port-image]').remove()")
    assert "label" in [found.split(":")[0] for found in violations(asked.page)]
    asked.page.close()


def test_every_task_shows_its_golden_cases_first(asked, folder):
    golden = tensors.load(folder / "model" / "golden.safetensors")
    for task, port in (("reconstruct", "reconstruction"), ("generate", "image"), ("inpaint", "inpainted")):
        asked.choose(task)
        asked.page.wait_for_selector(f"#outputs canvas[data-port={port}]")
        shown = {asked.pixels(port, i).tobytes() for i in range(2)}
        assert shown == {picture.tobytes() for picture in golden[f"{task}/0/outputs/{port}"]}
        assert asked.page.text_content("#result-title") == "Examples"
    # The form has the first example's picture and mask: nothing else is needed.
    asked.go()
    assert asked.page.get_by_role("radio").count() == 1


def test_an_example_fills_the_form(asked, folder):
    golden = tensors.load(folder / "model" / "golden.safetensors")
    asked.choose("generate")
    asked.page.get_by_role("radio", name="2 of 2").click()
    asked.page.get_by_role("button", name="Use its inputs").click()
    seed = int(asked.page.input_value("#port-seed"))
    case = golden["generate/0/inputs/seed"].tolist().index(seed)
    assert asked.page.input_value("#port-label") == str(golden["generate/0/inputs/label"][case])
    asked.go()
    np.testing.assert_array_equal(asked.pixels("image"), golden["generate/0/outputs/image"][case, ..., 0])


PUBLISHED = Path(__file__).parents[3] / "models"


@pytest.mark.parametrize("name", sorted(project.parent.name for project in PUBLISHED.glob("*/pyproject.toml")))
def test_every_published_model_has_a_page_that_works(chromium, tmp_path, name):
    newest = max(PUBLISHED.joinpath(name).glob("[1-9]*"), key=lambda version: int(version.name))
    done = zoo("export", newest, "--target", "web", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    with serving(Site(tmp_path / "out")) as url:
        asked = Asked(chromium, f"{url}?device=wasm", reduced_motion="reduce")
        asked.page.set_viewport_size({"width": 390, "height": 844})
        for tab in asked.page.get_by_role("tab").all():
            tab.click()
            asked.page.wait_for_selector("#outputs .tile")
            in_order(asked.page, 390)
            if asked.page.locator("#port-steps").count():
                asked.page.fill("#port-steps", "2")
            asked.go()
            assert asked.page.text_content("#result-title") == "Result"
            assert asked.page.locator("#outputs canvas, #outputs pre").count() > 0
            assert asked.page.evaluate("document.documentElement.scrollWidth") <= 390
        asked.page.close()
        assert asked.errors == []


# --- Progress ---------------------------------------------------------------------------------------------------------

WATCH = """() => {
    const clock = document.getElementById("clock");
    window.seen = [];
    new MutationObserver(() => window.seen.push(clock.textContent)).observe(clock, { childList: true });
}"""


def test_a_sampler_s_steps_are_shown_and_give_the_whole_graph_s_picture(chromium, stepping):
    asked = Asked(chromium, stepping)
    asked.choose("generate")
    asked.page.fill("#port-seed", "3")
    asked.page.fill("#port-steps", "12")
    asked.page.fill("#port-guidance", "0")
    asked.page.evaluate(WATCH)
    asked.go()
    told = [int(found[1]) for line in asked.page.evaluate("seen") if (found := re.match(r"Step (\d+) of 12, ", line))]
    assert told == sorted(told) and {1, 12} <= set(told)
    assert (asked.pixels("image") == 31 * 3 - 7 + 12).all()
    asked.page.close()
    assert asked.errors == []


def test_a_call_is_measured_by_a_golden_case_and_can_be_cancelled(chromium, stepping):
    asked = Asked(chromium, stepping)
    page = asked.page
    asked.choose("slow")
    page.evaluate(WATCH)
    asked.go()
    assert any(re.fullmatch(r"[\d.]+ s of about [\d.]+ s", line) for line in page.evaluate("seen"))
    assert page.text_content("#outputs pre") == str(int(page.input_value("#port-seed")) + 1000)
    page.fill("#port-rounds", "1000000000")
    for end in (lambda: page.click("#cancel"), lambda: page.keyboard.press("Escape")):
        page.click("#go")
        asked.wait("#clock", re.compile(r"s of about \d+ s$"))
        assert page.evaluate("document.activeElement.id") == "cancel" and page.is_hidden("#go")
        end()
        asked.wait("#status", "Cancelled")
        assert page.evaluate("document.activeElement.id") == "go" and page.is_hidden("#cancel")
    page.fill("#port-rounds", "10")
    asked.go()
    assert page.text_content("#outputs pre") == str(int(page.input_value("#port-seed")) + 10)
    page.close()
    assert asked.errors == []
    files = [address for address in asked.addresses if "/model/" in address]
    assert len(files) == len(set(files)), "a worker that replaces another loads nothing again"


# --- From one result to the next --------------------------------------------------------------------------------------


def test_a_new_picture_clears_mask_and_result(asked, tmp_path):
    asked.choose("inpaint")
    asked.page.wait_for_selector("#outputs .tile")
    asked.go()
    picture_file(tmp_path / "a.png")
    asked.page.set_input_files("#port-image", tmp_path / "a.png")
    asked.wait("#result-note", re.compile("^Nothing computed"))
    assert asked.page.locator("#outputs canvas").count() == 0
    asked.go()
    np.testing.assert_array_equal(asked.pixels("inpainted"), picture_file(tmp_path / "a.png"))  # no pixel was masked


def test_a_result_goes_on_to_other_tasks(asked):
    page = asked.page
    asked.choose("generate")
    page.fill("#port-seed", "3")
    page.select_option("#port-seed-many", "4")
    asked.go()
    page.get_by_role("radio", name="1 of 4").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="3 of 4").get_attribute("aria-checked") == "true"
    third = asked.pixels("image", 2)
    names = page.get_by_role("group", name="Use this for").get_by_role("button").all_text_contents()
    assert names == ["Reconstruct", "Encode", "Classify", "Inpaint"]
    page.get_by_role("button", name="Encode", exact=True).press("Enter")
    asked.wait(".note", "Taken from the earlier result.")
    assert page.evaluate("document.activeElement.id") == "task-encode"
    asked.go()
    page.get_by_role("button", name="Decode", exact=True).click()
    asked.wait(".note", "Taken from the earlier result.")
    asked.go()
    np.testing.assert_array_equal(asked.pixels("image"), third // 64 * 64)


def test_a_result_is_downloaded_as_it_is(asked, tmp_path):
    asked.choose("generate")
    asked.page.fill("#port-seed", "3")
    asked.go()
    with asked.page.expect_download() as download:
        asked.page.get_by_role("button", name="Download PNG").click()
    assert download.value.suggested_filename == "studio-generate-0.png"
    saved = np.asarray(Image.open(download.value.path()).convert("L"))
    np.testing.assert_array_equal(saved, asked.pixels("image"))


def test_a_link_draws_the_same_pictures(asked, chromium, site):
    asked.choose("generate")
    asked.page.fill("#port-seed", "3")
    asked.page.select_option("#port-seed-many", "4")
    asked.page.select_option("#port-label", "2")
    asked.page.fill("#port-steps", "9")
    asked.go()
    address = asked.page.url
    assert address.endswith("#task=generate&label=2&seed=3-6&steps=9&guidance=0.1")
    other = Asked(chromium, address)
    assert other.page.get_attribute("html", "data-drawn") == "1"
    for i in range(4):
        np.testing.assert_array_equal(other.pixels("image", i), asked.pixels("image", i))
    # The same page, with another link.
    other.page.evaluate("location.hash = '#task=generate&seed=8'")
    other.page.wait_for_selector("html[data-drawn='2']")
    assert (other.pixels("image") == (31 * 8 + 7 * 2 + 9) % 256).all()
    other.page.close()
    assert other.errors == []


def test_a_wrong_link_draws_nothing_wrong(chromium, site):
    for link in (
        "#task=nothing",
        "#task=generate&label=<img src=x>&seed=no&steps=1e9&other=1",
        "#%ff&&=",
        "#task=__proto__",
    ):
        asked = Asked(chromium, f"{site}?device=wasm{link}")
        asked.choose("generate")
        assert asked.page.input_value("#port-label") == "-1"
        assert asked.page.input_value("#port-seed").isdigit()
        asked.page.close()
        assert asked.errors == []


def test_sliders_cover_the_usual_range_and_numbers_all_of_it(asked):
    asked.choose("generate")
    slider = "#ports .port:has(#port-steps) input[type=range]"
    assert asked.page.get_attribute(slider, "max") == "50"  # the port's own; four times the default would be more
    assert asked.page.get_attribute("#port-steps", "max") == "50"
    asked.page.fill("#port-steps", "7")
    assert asked.page.input_value(slider) == "7"
    assert asked.page.text_content("#port-steps-hint") == "Sampler steps. 1 to 50, usually 20."


BAD = {
    "no seed": ("generate", "#port-seed", "", None),
    "a seed too high": ("generate", "#port-seed", "9007199254740992", None),
    "half a step": ("generate", "#port-steps", "1.5", None),
    "too many steps": ("generate", "#port-steps", "51", None),
}


@pytest.mark.parametrize("task, control, text, says", BAD.values(), ids=BAD)
def test_a_wrong_number_draws_nothing(asked, task, control, text, says):
    asked.choose(task)
    asked.page.fill(control, text)
    asked.page.click("#go")
    asked.page.wait_for_timeout(300)
    assert asked.page.get_attribute("html", "data-drawn") is None
    # The browser says so itself; without its own check the ports say it.
    asked.page.evaluate("document.getElementById('form').noValidate = true")
    asked.page.click("#go")
    asked.page.wait_for_selector("#status.bad")
    assert control.removeprefix("#port-") in asked.status()
    assert asked.page.get_attribute("html", "data-drawn") is None


def test_wrong_pictures_are_told(asked, tmp_path):
    picture_file(tmp_path / "small.png", 7, 9)
    (tmp_path / "text.png").write_text("no picture")
    np.save(tmp_path / "float.npy", np.zeros((1, 2, 2)))
    cases = [
        ("reconstruct", "image", "small.png", "the picture is 9x7; at least 8 pixels per side are needed"),
        ("reconstruct", "image", "text.png", "text.png is not a picture that this browser can read"),
        ("decode", "tokens", "float.npy", "tokens must be a C-ordered .npy array of int64"),
        ("decode", "tokens", "text.png", "tokens must be a C-ordered .npy array of int64"),
    ]
    for task, port, name, says in cases:
        asked.choose(task)
        asked.page.set_input_files(f"#port-{port}", tmp_path / name)
        asked.page.wait_for_selector("#status.bad")
        assert asked.status() == f"Error: {says}"
        asked.page.click("#go")
        missing = f"Error: {port} is missing: choose a file, or the example"
        asked.wait("#status", missing)


def test_a_page_asks_for_weights_and_runtime_once(chromium, tmp_path):
    done = zoo("export", tiny.bundle(tmp_path / "tiny"), "--target", "web", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    with serving(Site(tmp_path / "out")) as url:
        asked = Asked(chromium, f"{url}?device=wasm")
        asked.page.close()
        large = [address for address in asked.addresses if address.endswith((".safetensors", ".wasm"))]
    assert large == [f"{url}model/model.safetensors"]  # the runtime waits for the first call


def test_damaged_weights_draw_nothing(chromium, tmp_path):
    damaged = tmp_path / "damaged"
    done = zoo("export", tiny.bundle(tmp_path / "tiny"), "--target", "web", "-o", damaged)
    assert done.code == 0, done.err
    weights = damaged / "model" / "model.safetensors"
    whole = weights.read_bytes()
    for data, says in (
        (whole[:-1], f"has {len(whole) - 1} bytes of"),
        (whole[:-1] + b"!", "is damaged: copy the folder again"),
    ):
        weights.write_bytes(data)
        with serving(Site(damaged)) as url:
            asked = Asked(chromium, f"{url}?device=wasm", ready="#status.bad")
            assert says in asked.status() and asked.page.is_disabled("#go")
            asked.page.close()


def test_hostile_names_are_shown_as_text(chromium, tmp_path):
    done = zoo("export", hostile(tmp_path / "hostile"), "--target", "web", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    with serving(Site(tmp_path / "out")) as url:
        asked = Asked(chromium, f"{url}?device=wasm")
        asked.choose("generate")
        names = asked.page.locator("#port-label option").all_text_contents()
        assert names == ["anything", *HOSTILE]
        asked.page.select_option("#port-label", "1")
        asked.go()
        asked.choose("classify")
        asked.page.get_by_role("button", name="Use the example").click()
        asked.page.wait_for_selector(".drop canvas:visible")
        asked.go()
        assert set(asked.page.locator(".bars li span:nth-of-type(1)").all_text_contents()) <= set(HOSTILE)
        assert asked.page.locator("img, script:not([src])").count() == 0 and asked.errors == []
        assert all(address.startswith((url, "blob:", "data:")) for address in asked.addresses)
        asked.page.close()


def test_any_static_server_will_do(chromium, folder):
    """Python's own server sends no isolation headers: one thread then, and the same picture."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *args: None
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as url:
        asked = Asked(chromium, f"{url}?device=wasm")
        assert not asked.page.evaluate("crossOriginIsolated")
        asked.choose("generate")
        asked.page.fill("#port-seed", "2")
        asked.go()
        assert (asked.pixels("image") == 31 * 2 - 7 + 20).all()
        asked.page.close()


def test_the_page_checks_itself(asked):
    asked.page.click("footer summary")
    asked.page.click("#check")
    asked.page.wait_for_selector("#checked:visible")
    assert asked.status() == "All 8 golden outputs come out the same here"


def test_webgpu_is_used_when_there_and_equal(playwright, folder):
    with serving(Site(folder)) as url:
        launched = playwright.chromium.launch(executable_path=browser(), args=flags(webgpu=True))
        asked = Asked(launched, f"{url}?device=webgpu")
        assert asked.page.get_attribute("html", "data-device") == "webgpu", asked.page.text_content("#facts")
        asked.choose("generate")
        asked.page.fill("#port-seed", "2")
        asked.go()
        assert (asked.pixels("image") == 31 * 2 - 7 + 20).all()
        assert "WebGPU" in asked.status()
        # One golden picture that differs, and WebGPU is not taken.
        raw = next((folder / "golden").glob("reconstruct.0.reconstruction.bin"))
        right = raw.read_bytes()
        try:
            raw.write_bytes(bytes(b ^ 64 for b in right))
            other = Asked(launched, f"{url}?device=webgpu")
            assert other.page.get_attribute("html", "data-device") == "wasm"
            assert "WebGPU is off by 64 in reconstruction" in other.page.text_content("#facts")
        finally:
            raw.write_bytes(right)
        launched.close()
