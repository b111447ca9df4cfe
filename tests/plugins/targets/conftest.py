"""A browser for the tests of the page."""

import pytest
from zoo_targets.web import browser, flags

from .hosts import need


@pytest.fixture(scope="module")
def playwright():
    need("" if browser() else "Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def chromium(playwright):
    launched = playwright.chromium.launch(executable_path=browser(), args=flags())
    yield launched
    launched.close()
