import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.text import did_you_mean, human_bytes, one_line, safe_text, sniff, stand_in


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"), ("\x07\x00\x7f\x9b", "\\x07\\x00\\x7f\\x9b"), ("a\tb", "a b"),
        ("\u202egnp.exe", "\\u202egnp.exe"), ("a\u200bb", "a\\u200bb"), ("\xad", "\\xad"), ("\ufeff", "\\ufeff"),
        ("\u2028\u2029", "\\u2028\\u2029"), ("\ud800", "\\ud800"), ("\U000e0041", "\\U000e0041"),
        ("Zürich 漢字\u3000\xa0😀", "Zürich 漢字\u3000\xa0😀"), ("a\nb", "a\\x0ab"), (None, "None"),
    ],
)  # fmt: skip
def test_what_could_steer_a_terminal_is_shown(text, shown):
    assert safe_text(text) == shown


def test_newlines_stay_in_a_block():
    assert safe_text("a\nb\x1b", keep_newlines=True) == "a\nb\\x1b"


@given(st.text())
def test_clean_text_stays_clean_and_is_json(text):
    clean = safe_text(text)
    assert safe_text(clean) == clean and "\x1b" not in clean
    assert json.loads(json.dumps(clean)) == clean


def test_nearest_name():
    assert did_you_mean("t-shirt", ["Shirt", "T-shirt/top"]) == "; did you mean 'T-shirt/top'?"
    assert did_you_mean("vqvae-fasion", ["vqvae-mnist", "vqvae-fashion"]) == "; did you mean 'vqvae-fashion'?"
    assert did_you_mean("zebra", ["cat"]) == ""


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (2_600_000, "2.6 MB"),
        (7 * 10**9, "7.0 GB"),
        (10**16, "10000.0 TB"),
    ],
)
def test_bytes_for_people(count, text):
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer: "),
        (b"/annex/objects/SHA256E-s3--00\n", "a git-annex pointer: "),
        (b'<?xml version="1.0"?>\n<!DOCTYPE html>', "an HTML page: "),
        (b"<h1>502 Bad Gateway</h1>", "an HTML page: "),
        ("<html>".encode("utf-16"), "an HTML page: "),
        (b"<Error><Code>NoSuchKey</Code>", "an XML document"),
        (b'{"error": "Repository not found"}', "an error in JSON"),
        (b'{"errors": []}', "an error in JSON"),
        (b'{"error_rate": 1}', ""),
        (b"\xef\xbb\xbf \n<!DOCTYPE HTML>", "an HTML page: "),
        (b"<html lang='en'>", "an HTML page: "),
        (b"<?xml version='1.0'?><Error>", "an XML document, "),
        (b"<?xml version='1.0'?><svg>", ""),
        (b"version: 1", ""),
        (b"", ""),
    ],
)
def test_what_stands_for_a_file_is_named(first, told):
    assert stand_in(first).startswith(told) and bool(stand_in(first)) == bool(told)
    assert sniff(first) == (f"; it is {stand_in(first)}" if told else "")


def test_a_reason_is_whole_and_one_line():
    assert one_line("a\n  b" + "c" * 1500) == "a b" + "c" * 1500
    assert one_line("x" * 5000).endswith("… (3,000 more characters)")
