"""Calls the `zoo` command in this process: quick, and with its exit code, stdout and stderr apart."""

from dataclasses import dataclass

from click.testing import CliRunner

from zoo.cli import main


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str
    data: bytes  # of stdout


def zoo(*words: object, stdin: bytes | None = None) -> Outcome:
    """`zoo WORDS…`; a failure that is not one line on purpose is raised."""
    result = CliRunner().invoke(main, [str(word) for word in words], input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout_bytes.decode("utf-8", "replace"), result.stderr, result.stdout_bytes)
