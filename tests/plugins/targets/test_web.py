"""The page in headless Chromium: what it draws, what it says, and that it asks for nothing outside of its folder."""

import json
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

from .hosts import HOSTILE, hostile, need

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
    tensors.save(bundle / "golden.safetensors", golden)
    files = {p.name: manifests.describe_file(p) for p in sorted(bundle.iterdir()) if p.name != "model.yaml"}
    manifest = msgspec.structs.replace(manifest, tasks=manifest.tasks | {"inpaint": task}, files=files)
    (bundle / "model.yaml").write_bytes(manifests.dump(manifest))
    return bundle


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


@pytest.fixture
def asked(chromium, site, request):
    opened = Asked(chromium, f"{site}?device=wasm")
    yield opened
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    opened.page.screenshot(path=SCREENSHOTS / f"{request.node.name}.png", full_page=True)
    opened.page.close()
    assert opened.errors == []
    assert all(url.startswith((site, "blob:", "data:")) for url in opened.addresses)


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
        asked.page.get_by_role("button", name="Save as .npy").click()
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
    for expected in ("port-label", "port-seed"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == expected
    page.keyboard.press("Control+A")
    page.keyboard.type("9")
    page.keyboard.press("Enter")
    page.wait_for_selector("html[data-drawn='1']")
    assert (asked.pixels("image") == (31 * 9 - 7 + 20) % 256).all()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_light_and_dark(chromium, site, scheme):
    asked = Asked(chromium, f"{site}?device=wasm", color_scheme=scheme)
    page = asked.page
    page.set_viewport_size({"width": 360, "height": 740})
    colours = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    luminance = [sum(map(int, colour[4:-1].split(","))) / 765 for colour in colours]
    assert (luminance[0] > 0.9 > 0.2 > luminance[1]) if scheme == "light" else (luminance[0] < 0.2 < 0.8 < luminance[1])
    for task in ("reconstruct", "decode", "inpaint", "classify", "generate"):
        asked.choose(task)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    asked.go()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    small = page.evaluate("""[...document.querySelectorAll("button:not([hidden]), select")]
        .filter((e) => e.offsetParent).map((e) => e.getBoundingClientRect().height).filter((h) => h < 30)""")
    assert small == []
    page.screenshot(path=SCREENSHOTS / f"phone-{scheme}.png", full_page=True)
    page.close()


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
    assert asked.page.locator("#outputs canvas").count() == 0
    # The browser says so itself; without its own check the ports say it.
    asked.page.evaluate("document.getElementById('form').noValidate = true")
    asked.page.click("#go")
    asked.page.wait_for_selector("#status.bad")
    assert control.removeprefix("#port-") in asked.status() and asked.page.locator("#outputs canvas").count() == 0


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
    asked.choose("reconstruct")
    asked.page.click("#go")
    asked.page.wait_for_selector("#status.bad")
    assert asked.status() == "Error: image is missing: choose a file, or the example"


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
