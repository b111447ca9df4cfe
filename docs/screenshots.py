"""Makes the screenshots of a model's page: `python docs/screenshots.py`. Needs Chromium and a minute or two."""

import io
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from zoo_targets.web import browser, flags

from zoo.ship.export import export
from zoo.site import Site
from zoo.store.locate import read_folder

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "models" / "ddpm-fashion" / "1"


def drawn(page: Page) -> None:
    page.wait_for_selector("html[data-drawn]")


def inpainting(page: Page) -> None:
    """A coat that was drawn, with its left half painted over."""
    drawn(page)
    page.get_by_role("button", name="Inpaint", exact=True).click()
    page.wait_for_selector("#port-mask[width='28']")
    page.get_by_label("Brush size").fill("12")
    page.get_by_role("button", name="Clear").click()
    box = page.locator("#port-mask").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 8)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] - 8, steps=30)
    page.mouse.up()
    page.locator("#port-label").select_option("4")
    page.locator("#port-seed").fill("1")
    page.locator("#port-seed-many").select_option("4")
    page.click("#go")
    page.wait_for_selector("html[data-drawn='2']")
    page.evaluate("scrollTo(0, 0)")


PICTURES = {
    "page-phone": (390, 844, "light", "", lambda page: page.wait_for_selector("#outputs .tile")),
    "page-tablet": (820, 900, "dark", "#task=generate&label=4&seed=7&steps=20", inpainting),
    "page-desktop": (1440, 900, "light", "#task=generate&label=-1&seed=1-16&steps=20", drawn),
}
"""File name: width and height of the window, colour scheme, the address after `#`, and what to do."""


def main() -> None:
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        export(read_folder(MODEL), "web", Path(folder) / "site")
        with Site(Path(folder) / "site") as site:
            threading.Thread(target=site.serve_forever, daemon=True).start()
            chromium = playwright.chromium.launch(executable_path=browser(), args=flags())
            for name, (width, height, scheme, link, do) in PICTURES.items():
                page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                page.set_default_timeout(300_000)
                page.goto(f"{site.url}?device=wasm{link}")
                page.wait_for_selector("html[data-ready]")
                do(page)
                path = ROOT / "docs" / "images" / f"{name}.webp"
                Image.open(io.BytesIO(page.screenshot())).save(path, quality=85, method=6)
                print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")
                page.close()
            chromium.close()
            site.shutdown()


if __name__ == "__main__":
    main()
