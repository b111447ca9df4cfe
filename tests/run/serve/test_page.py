"""The page on `/` of `zoo serve`, in headless Chromium."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from zoo_targets.web import browser, flags

from tests.plugins.targets.hosts import HOSTILE, hostile, need
from tests.tiny_tasks import studio
from zoo.run.serve.page import PATHS

from .server import serving
from .sketch import pixel, sketch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("page")
    sketch(place / "sketch")
    studio(place / "studio")
    return place


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder, folder / "sketch", folder / "studio") as running:
        yield running


@pytest.fixture(scope="module")
def chromium():
    need("" if browser() else "Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser(), args=flags())
        yield opened
        opened.close()


@pytest.fixture
def page(chromium):
    """A page in which nothing may go wrong, and which may only ask its own server."""
    opened, wrong = chromium.new_page(), []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda line: wrong.append(line.text) if "Security Policy" in line.text else None)
    opened.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(OURS) else None)
    yield opened
    opened.close()
    assert not wrong


OURS = ("http://127.0.0.1:", "data:")


def ready(page, address):
    page.goto(address)
    page.wait_for_selector("html[data-ready]", timeout=60_000)


def drawn(page):
    """The pixels of the pictures that are shown."""
    sources = page.eval_on_selector_all("#outputs img", "images => images.map(image => image.src)")
    files = [base64.b64decode(source.partition("base64,")[2]) for source in sources]
    return [np.asarray(Image.open(io.BytesIO(file))) for file in files]


def run(page, count=1):
    page.click("#go")
    page.wait_for_selector(f"html[data-drawn='{count}']", timeout=60_000)


def test_it_lists_the_models_and_their_tasks_without_parts(page, server):
    ready(page, server.url)
    assert page.locator("nav h2").all_text_contents() == ["sketch:1", "studio:1"]
    assert page.locator("nav a").all_text_contents() == [
        "generate", "reconstruct", "encode", "decode", "generate", "classify"
    ]  # fmt: skip
    assert page.inner_text("#title") == "sketch:1 generate"


def test_it_draws_what_the_text_says_step_by_step(page, server):
    ready(page, server.url)
    page.fill("[name=text]", "cat")
    page.fill("[name=seed]", "7")
    page.fill("[name=steps]", "12")
    page.fill("[name=work]", "1000")
    page.evaluate(
        """() => {
            window.said = [], window.looks = 0;
            new MutationObserver(() => said.push(document.getElementById("status").textContent))
                .observe(document.getElementById("status"), { childList: true });
            new MutationObserver(() => { looks += document.querySelectorAll("#outputs.preview img").length; })
                .observe(document.getElementById("outputs"), { childList: true });
        }"""
    )
    run(page)
    (picture,) = drawn(page)
    assert picture.shape == (8, 8) and (picture == pixel("cat", 7, 12)).all()
    said = page.evaluate("said")
    assert "Step 12 of 12" in said and said[-1].startswith("Done: ") and page.evaluate("looks") >= 1
    expect(page.locator("figcaption")).to_have_text("seed 7")


def test_a_run_can_be_cancelled(page, server):
    ready(page, server.url)
    page.fill("[name=text]", "cat")
    page.fill("[name=steps]", "50")
    page.fill("[name=work]", "5000")
    page.click("#go")
    expect(page.locator("#status")).to_contain_text("Step ", timeout=60_000)
    page.click("#cancel")
    expect(page.locator("#status")).to_have_text("Cancelled")
    page.fill("[name=work]", "0")
    run(page)
    assert (drawn(page)[0].shape) == (8, 8)


def test_pictures_classes_and_lists(page, server):
    ready(page, server.url + "#/v1/models/studio:1/tasks/reconstruct")
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    page.set_input_files("[name=image]", {"name": "a.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
    run(page)
    assert (drawn(page)[0] == image).all()
    page.click("nav a:text-is('generate') >> nth=1")
    page.select_option("[name=label]", "Sneaker")
    page.fill("[name=seed]", "3")
    run(page, 2)
    assert (drawn(page)[0] == 31 * 3 + 7 + 20).all()
    page.click("nav a:text-is('decode')")
    page.fill("[name=tokens]", "[[[1, 2], [3, 0]]]")
    page.fill("[name=size]", "[8, 8]")
    run(page, 3)
    assert drawn(page)[0][0, 0] == 64


def test_what_is_wrong_is_said(page, server):
    ready(page, server.url + "#/v1/models/studio:1/tasks/decode")
    page.fill("[name=tokens]", "[[[1, 9]]]")
    page.fill("[name=size]", "[8, 8]")
    page.click("#go")
    expect(page.locator("#status.bad")).to_contain_text("Error: tokens")


def test_it_asks_for_a_key_and_keeps_it_nowhere(page, folder):
    with serving(folder, folder / "sketch", ZOO_SERVE_API_KEYS="right") as server:
        for path in PATHS:
            text = server.get(path).text
            assert "sketch" not in text and "right" not in text
        page.goto(server.url)
        page.fill("#key", "wrong")
        page.click("#ask button")
        expect(page.locator("#status")).to_have_text("The server does not know this key")
        page.fill("#key", "right")
        page.click("#ask button")
        page.wait_for_selector("html[data-ready]")
        page.fill("[name=text]", "cat")
        page.fill("[name=seed]", "1")
        run(page)
        assert (drawn(page)[0] == pixel("cat", 1, 20)).all()
        kept = "JSON.stringify([localStorage, sessionStorage, document.cookie, location.href, document.body.outerHTML])"
        assert "right" not in page.evaluate(kept)
        page.reload()
        expect(page.locator("#ask")).to_be_visible()


def test_what_a_model_says_about_itself_is_text(page, folder):
    hostile_model = hostile(folder / "hostile")
    with serving(folder, hostile_model) as server:
        ready(page, server.url)
        assert page.text_content("#summary") == " ".join(HOSTILE)[:290]
        page.click("nav a:text-is('generate')")
        assert page.locator("[name=label] option").all_text_contents()[1:] == list(HOSTILE)
        assert page.locator("script, iframe, img, svg").count() == 1  # its own script


def test_a_proxy_may_change_the_host_but_another_page_may_not_ask(server):
    path, body = "/v1/models/sketch/tasks/generate", {"text": "a"}
    elsewhere = {"Origin": "https://models.example.org"}
    same = elsewhere | {"Sec-Fetch-Site": "same-origin"}
    assert server.post(path, json=body, headers=same).status_code == 200
    for site in ("cross-site", "same-site", "none"):
        assert server.post(path, json=body, headers=elsewhere | {"Sec-Fetch-Site": site}).status_code == 403
    assert server.post(path, json=body, headers=elsewhere).status_code == 403
    assert server.get("/", headers={"Host": "models.example.org"}).status_code == 403


def test_its_files_are_served_with_a_policy(server):
    for path, (_, kind) in PATHS.items():
        answer = server.get(path)
        assert answer.status_code == 200 and answer.headers["Content-Type"].startswith(kind)
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert server.get("/page/__init__.py").status_code == 404
