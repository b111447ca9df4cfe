"""Live calls of the page in headless Chromium: the picture follows the form, and the page never stalls."""

import json
import subprocess
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from zoo_targets.web import browser

import zoo
from tests.cli.commands import zoo as run_zoo
from zoo.site import Site

from .hosts import NODE_MODULES, need
from .test_web import Asked, picture_file, with_inpaint

pytestmark = pytest.mark.slow

MODEL = "ddpm-fashion-fast"

LONG_TASKS = """() => {
    window.long = [];
    new PerformanceObserver((list) => window.long.push(...list.getEntries().map(({ duration }) => duration)))
        .observe({ type: "longtask" });
}"""

# Moves the seed 60 times a second, as a slider that is dragged; gives the pictures that appeared, their times and gaps
# between the frames of the page.
DRAG = """(seconds) => new Promise((resolve) => {
    const seed = document.getElementById("port-seed"), notes = [], frames = [];
    const shown = () => Number(document.documentElement.dataset.live ?? 0), before = shown(), start = performance.now();
    let asked = 0;
    const move = (now) => {
        frames.push(now);
        if (now - start > 1000 * seconds) {
            const elapsed = (performance.now() - start) / 1000;
            return resolve({ asked, drawn: shown() - before, elapsed, note: document.getElementById("result-note").textContent,
                gap: Math.max(...frames.slice(1).map((at, i) => at - frames[i])) });
        }
        seed.value = String(++asked);
        seed.dispatchEvent(new Event("input", { bubbles: true }));
        requestAnimationFrame(move);
    };
    requestAnimationFrame(move);
})"""


@contextmanager
def page_of(folder):
    with Site(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"{server.url}?device=wasm"
        server.shutdown()


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    """The page of the fast model, as a folder."""
    need("" if browser() else "Chromium")
    folder = tmp_path_factory.mktemp("live") / "site"
    done = run_zoo("export", MODEL, "--target", "web", "-o", folder)
    assert done.code == 0, done.err
    return folder


SHOWN = """(count) => new Promise((resolve) => {
    const html = document.documentElement, enough = () => Number(html.dataset.live ?? 0) >= count && resolve();
    new MutationObserver(enough).observe(html, { attributes: true });
    enough();
})"""


def follow(asked, do, count=1):
    """Does something and waits for that many live pictures after it."""
    before = int(asked.page.get_attribute("html", "data-live") or 0)
    do()
    asked.page.evaluate(SHOWN, before + count)


def test_pictures_follow_a_slider_and_nothing_blocks_the_page(chromium, fast):
    with page_of(fast) as url:
        asked = Asked(chromium, url)
        page = asked.page
        assert page.is_checked("#live") and page.input_value("#port-seed-many") == "4"
        page.select_option("#port-seed-many", "1")
        follow(asked, lambda: page.select_option("#port-label", "7"))  # opens the graph
        page.evaluate(LONG_TASKS)
        told = page.evaluate(DRAG, 4)
        long = page.evaluate("window.long")
        print(json.dumps(told), "long tasks", long)
        assert told["asked"] > told["drawn"] > 0, "only the newest is drawn"
        assert told["drawn"] / told["elapsed"] >= 5
        assert max(long, default=0) <= 100
        page.close()
        assert asked.errors == []
