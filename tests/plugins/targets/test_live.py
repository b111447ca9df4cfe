"""Live calls of the page in headless Chromium: the picture follows the form, and the page never stalls."""

import json
import os
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

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
PICTURES = 10

# Moves the seed with every frame of the page, as a slider that is dragged, until that many pictures have appeared.
DRAG = """(pictures) => new Promise((resolve) => {
    const seed = document.getElementById("port-seed"), long = [];
    new PerformanceObserver((list) => long.push(...list.getEntries().map(({ duration }) => duration))).observe({ type: "longtask" });
    const shown = () => Number(document.documentElement.dataset.live ?? 0), before = shown(), start = performance.now();
    let asked = 0;
    const move = (now) => {
        const drawn = shown() - before;
        if (drawn >= pictures) return resolve({ asked, drawn, seconds: (now - start) / 1000, long });
        seed.value = String(++asked);
        seed.dispatchEvent(new Event("input", { bubbles: true }));
        requestAnimationFrame(move);
    };
    requestAnimationFrame(move);
})"""

# Asks for the next picture when one has appeared.
CHAIN = """(pictures) => new Promise((resolve) => {
    const seed = document.getElementById("port-seed"), html = document.documentElement, start = performance.now();
    const shown = () => Number(html.dataset.live ?? 0), before = shown();
    const ask = () => {
        if (shown() - before >= pictures) return resolve((performance.now() - start) / 1000);
        seed.value = String(shown());
        seed.dispatchEvent(new Event("input", { bubbles: true }));
    };
    new MutationObserver(ask).observe(html, { attributeFilter: ["data-live"] });
    ask();
})"""

TICK = os.sysconf("SC_CLK_TCK")


def processor_seconds() -> float:
    """The processor time of this process's descendants that run."""
    children, total, todo = {}, 0, [os.getpid()]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append((int(stat.parent.name), int(fields[11]) + int(fields[12])))
    while todo:
        for process, ticks in children.get(todo.pop(), []):
            total += ticks
            todo.append(process)
    return total / TICK


def longest_task_ms(trace: bytes) -> float:
    """The most processor time of a task of the page's main thread, in a trace of Chromium."""
    events = json.loads(trace)["traceEvents"]
    mains = {
        (e["pid"], e["tid"]) for e in events if e["name"] == "thread_name" and e["args"]["name"] == "CrRendererMain"
    }
    tasks = [e for e in events if e["name"].endswith("RunTask") and (e["pid"], e["tid"]) in mains]
    assert tasks, "the trace contains no tasks"
    return max(e.get("tdur", 0) for e in tasks) / 1000


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
        chromium.start_tracing(page=page)
        told = page.evaluate(DRAG, 3)
        longest = longest_task_ms(chromium.stop_tracing())
        before = processor_seconds()
        seconds = page.evaluate(CHAIN, PICTURES)
        used = (processor_seconds() - before) / PICTURES
        print(
            f"{PICTURES / seconds:.1f} pictures/s, {1000 * used:.0f} ms of processor time each;",
            told,
            f"{longest:.0f} ms",
        )
        assert told["asked"] > told["drawn"], "older requests are dropped"
        # In processor time, since other programs may take the time on the clock.
        assert 5 * used <= 2, "5 pictures a second on two cores"
        assert longest <= 100
        page.close()
        assert asked.errors == []
