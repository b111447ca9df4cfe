"""A browser for the tests of the page; the host in C++ is compiled once."""

import pytest
from zoo_targets import cpp
from zoo_targets.web import browser, flags

from .hosts import build_once, need


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    monkeypatch.setattr(cpp, "build", build_once)


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
