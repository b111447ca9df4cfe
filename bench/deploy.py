"""A model in every stack: size of the folder, cold start, and pictures a second beside Python's.

    python bench/deploy.py [MODEL] [--task TASK] [--seconds S]

Exports the model to each target whose host is a program of a command line (python, node, cpp), and to the web. Cold
start is a whole process from nothing to the golden cases' end. Pictures a second come from inside one process, the
golden case again and again for S seconds, the stacks in turn, so that other work on the machine meets all of them. For
the web the time from the page's request to the first picture in headless Chromium is told as well.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ZOO = [sys.executable, "-m", "zoo"]

LOOPS = {
    "python": (
        [sys.executable, "-c"],
        """
import json, sys, time, run, numpy as np
task, seconds = sys.argv[1], float(sys.argv[2])
case = next(c for c in json.load(open("golden/cases.json")) if c["task"] == task)
read = lambda a: np.fromfile("golden/" + a["file"], a["dtype"]).reshape(a["shape"])
inputs = {n: read(a) for n, a in case["inputs"].items()}
pictures = len(next(iter(run.call(task, inputs).values())))
end, done, start = time.perf_counter() + seconds, 0, time.perf_counter()
while time.perf_counter() < end: run.call(task, inputs); done += pictures
print(done / (time.perf_counter() - start))
""",
    ),
    "node": (
        ["node", "--input-type=module", "-e"],
        """
import { readFileSync } from "node:fs";
import { model, run } from "./run.mjs";
import { fromBytes } from "./ports.mjs";
const [task, seconds] = process.argv.slice(1);
const golden = JSON.parse(readFileSync("golden/cases.json")).find((c) => c.task === task);
const inputs = {}, read = (a) => fromBytes(a.dtype, a.shape, readFileSync("golden/" + a.file));
for (const [n, a] of Object.entries(golden.inputs)) inputs[n] = read(a);
const pictures = Object.values(await run(task, inputs))[0].shape[0];
let done = 0, start = performance.now();
while (performance.now() < start + 1000 * seconds) { await run(task, inputs); done += pictures; }
console.log(done / ((performance.now() - start) / 1000));
""",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="vqvae-fashion")
    parser.add_argument("--task")
    parser.add_argument("--seconds", type=float, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folders = {target: Path(place) / target for target in ("python", "node", "cpp", "web")}
        for target, folder in folders.items():
            subprocess.run(
                [*ZOO, "export", given.model, "--target", target, "-o", folder], check=True, capture_output=True
            )
        manifest = json.loads((folders["python"] / "model.json").read_bytes())
        task = given.task or manifest["default_task"]
        rows = {target: {"MB": size(folder) / 1e6} for target, folder in folders.items()}
        for target, command in cold_commands(folders, Path(place)).items():
            rows[target]["cold start, s"] = min(timed(command, folders[target]) for _ in range(3))
        rates: dict[str, list[float]] = {target: [] for target in LOOPS}
        for _ in range(3):  # in turn
            for target, (command, source) in LOOPS.items():
                words = [*command, source, task, str(given.seconds / 3)]
                done = subprocess.run(words, cwd=folders[target], check=True, capture_output=True, text=True)
                rates[target].append(float(done.stdout))
        for target, found in rates.items():
            rows[target]["pictures/s"] = sorted(found)[1]
        rows["web"] |= in_browser(folders["web"], task)
    base = rows["python"]["pictures/s"]
    print(f"{given.model}, {task}")
    for target, row in rows.items():
        told = [f"{name} {value:.3g}" for name, value in row.items()]
        told += [f"{row['pictures/s'] / base:.2f} of Python's"] if "pictures/s" in row else []
        print(f"{target:8}", ", ".join(told))


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def cold_commands(folders: dict[str, Path], place: Path) -> dict[str, list[str]]:
    from zoo_targets import cpp

    commands = {"python": [sys.executable, "run.py", "verify"], "node": ["node", "run.mjs", "verify"]}
    if not cpp.missing():
        commands["cpp"] = [str(cpp.build(folders["cpp"], place / "build")), "verify"]
    return commands


def timed(command: list[str], folder: Path) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


def in_browser(folder: Path, task: str) -> dict[str, float]:
    """Seconds until the page is ready, and until its first picture, in a Chromium that has nothing of it yet."""
    from playwright.sync_api import sync_playwright
    from zoo_targets.web import browser, flags

    from zoo.site import Site

    with Site(folder) as site, sync_playwright() as playwright:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        launched = playwright.chromium.launch(executable_path=browser(), args=flags())
        page = launched.new_page()
        start = time.perf_counter()
        page.goto(f"{site.url}?device=wasm")
        page.wait_for_selector("html[data-ready]", timeout=120_000)
        ready = time.perf_counter() - start
        page.click(f"#task-{task}")
        example = page.get_by_role("button", name="Use the example")
        if example.count():
            example.first.click()
            page.wait_for_selector(".drop canvas:visible, .drop pre:visible")
        page.click("#go")
        page.wait_for_selector("html[data-drawn]", timeout=120_000)
        first = time.perf_counter() - start
        launched.close()
        site.shutdown()
    return {"page ready, s": ready, "first picture, s": first}


if __name__ == "__main__":
    main()
