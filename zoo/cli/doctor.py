"""`zoo doctor`: reports what is wrong with this installation, and the command that fixes it."""

import click

from . import output
from .options import option


@click.command()
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Report problems with this installation, and how to fix them.

    Checks Python, the packages and their versions, ONNX Runtime and CUDA (with a real call), the store and the
    plugins. The exit code is 1 if there is a problem, and 0 if there are only warnings.

    \b
    Example:
      zoo doctor
    """
    from ..doctor import examine
    from ..text import safe_text

    findings = examine()
    if as_json:
        output.as_json(findings)
    else:
        for finding in findings:
            click.echo(safe_text(f"{finding.severity:8} {finding.check}: {finding.text}"))
            if finding.mend:
                click.echo(safe_text(f"         -> {finding.mend}"))
    context.exit(1 if any(finding.severity == "problem" for finding in findings) else 0)
