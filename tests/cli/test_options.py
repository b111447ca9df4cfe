"""What options of several commands have in common."""

import click
import pytest

from zoo.cli.options import OnceOption, spdx

from .tree import leaves

KNOWN = [
    ("MIT", "MIT"), ("mit and cc-by-4.0", "MIT AND CC-BY-4.0"), ("LicenseRef-Mine", "LicenseRef-Mine"),
    ("NOASSERTION", "NOASSERTION"), ("NONE", "NONE"), ("Apache-2.0 WITH LLVM-exception",) * 2,
]  # fmt: skip
UNKNOWN = [
    ("Apache 2.0", "; did you mean 'Apache-2.0'? see "), ("CC-BY-NC-4", "; did you mean 'CC-BY-NC-4.0'? see "),
    ("xyzzy", "; see https://spdx.org/licenses, and write LicenseRef-NAME for"), ("MIT AND", "see https://spdx.org"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "kept"), KNOWN)
def test_a_licence_is_an_spdx_expression(given: str, kept: str, capsys):
    assert spdx(None, None, given) == kept and capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("given", "said"), UNKNOWN)
def test_another_licence_is_reported_in_one_line(given: str, said: str, capsys):
    assert spdx(None, None, given) == given
    err = capsys.readouterr().err
    assert err.startswith(f"--license '{given}' is not an SPDX expression") and said in err and err.count("\n") == 1


def test_text_that_no_manifest_takes_is_left_to_its_own_error(capsys):
    assert spdx(None, None, "<script>") == "<script>" and capsys.readouterr().err == ""


def test_no_option_silently_keeps_the_last_of_several_values():
    options = [(name, p) for name, command in leaves().items() for p in command.params if isinstance(p, click.Option)]
    assert len(options) > 100
    loose = [(name, p.opts) for name, p in options if not (isinstance(p, OnceOption) or p.is_flag or p.multiple)]
    assert loose == []
