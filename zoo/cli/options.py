"""What the options of all commands have in common."""

import math
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from ..system.paths import user_path
from ..text import did_you_mean, safe_text
from .output import note

MOST = 10**9
"""The largest number that an option takes if it states no other: 10^300 would only fail later."""


class OnceOption(click.Option):
    """An option that is given once is an error if it is given twice: click would silently use the last one."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        if self.is_flag or self.multiple or self.count:
            super().add_to_parser(parser, ctx)
            return
        # Collects the values; `consume_value` takes the only one.
        parser.add_option(obj=self, opts=self.opts, dest=self.name, action="append", nargs=self.nargs)

    def consume_value(self, ctx: click.Context, opts: Any) -> Any:
        given = opts.get(self.name)
        if isinstance(given, list) and not self.multiple:
            if len(given) > 1 and not ctx.resilient_parsing:
                texts = (" ".join(value) if isinstance(value, tuple) else value for value in given)
                values = " and ".join(safe_text(text)[:80] for text in texts)
                raise UsageError(f"{self.opts[0]} was given {len(given)} times: {values}; give it once")
            opts = {**opts, self.name: given[0]}
        return super().consume_value(ctx, opts)


class PathType(click.Path):
    """A path that exists or will: see `user_path`."""

    def __init__(self, *, out: bool = False):
        super().__init__(path_type=Path)
        self.out = out

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return user_path(value, out=self.out)


class ModelType(click.ParamType):
    """A model's reference, or a bundle's folder: any text; the Tab key completes models."""

    name = "text"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        from .completion import models

        return models(incomplete)


PATH, OUT, MODEL = PathType(), PathType(out=True), ModelType()


def option(*names: str, **attributes: Any) -> Any:
    """`click.option`, for an option as described above."""
    return click.option(*names, cls=OnceOption, **attributes)


def set_option(metavar: str, help: str) -> Any:
    """The option `--set KEY=VALUE`, which may be repeated for other keys."""
    return option("--set", "assignments", multiple=True, metavar=metavar, callback=_keys_once, help=help)


class TaskCommand(click.Command):
    """A command that takes the options of a task with `--set`, since it has several models, or other options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as e:
            name = e.option_name.lstrip("-").replace("-", "_")
            if not name.isidentifier():
                raise
            raise UsageError(f"{e.format_message()} An option of the task is given as --set {name}=…") from None


def class_names(text: str) -> list[str]:
    """The names of `--classes`, separated by commas; none for an option that was not given.

    Raises:
        UsageError: a name is empty, so that the labels after it would get each other's names, or is there twice.
    """
    from ..ports.label import repeated

    names = [name.strip() for name in text.split(",")] if text else []
    if "" in names:
        raise UsageError(f"--classes {safe_text(text)[:80]}: name {names.index('') + 1} of {len(names)} is empty")
    if twice := repeated(names):
        raise UsageError(f"--classes: {twice}")
    return names


def spdx(_: click.Context, __: click.Parameter, value: str) -> str:
    """The callback of `--license`: warns of text that is not an SPDX expression, corrects the case of one that is."""
    if value in ("NOASSERTION", "NONE"):  # SPDX's words for "nobody says" and "none"
        return value
    import re

    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return str(canonicalize_license_expression(value))
    except InvalidLicenseExpression:
        from packaging.licenses._spdx import LICENSES

        near = did_you_mean(value.lower().replace(" ", "-"), LICENSES)
        near = re.sub("'(.*)'", lambda found: f"'{LICENSES[found[1]]['id']}'", near)
        if re.fullmatch("[A-Za-z0-9.+() -]+", value):  # other text is refused where it would be written
            note(
                f"--license '{value}' is not an SPDX expression{near or ';'} see https://spdx.org/licenses, and write"
                " LicenseRef-NAME for a licence that is not there"
            )
        return value


def _keys_once(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    keys = [value.partition("=")[0].strip().replace("-", "_") for value in values]
    if "" in keys:
        raise UsageError(f"--set {safe_text(values[keys.index('')])[:80]}: there is no name before the equals sign")
    if twice := next((key for number, key in enumerate(keys) if key in keys[:number]), None):
        raise UsageError(f"--set {safe_text(twice)[:80]}=… was given {keys.count(twice)} times; give it once")
    return values


class Number(click.IntRange):
    """A whole number in a range; help does not show the general limit."""

    def _describe_range(self) -> str:
        return f"x>={self.min}" if self.max == MOST else super()._describe_range()


class Several(click.ParamType):
    """A number, or a list of numbers: `1,2,4`, `0..7`."""

    def __init__(self, kind: type[int] | type[float]):
        self.kind, self.one = kind, click.types.convert_type(kind)
        self.name = self.one.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from ..ports.lists import number_list

        name = param.opts[0] if param else ""
        several = number_list(name, value, self.kind) if isinstance(value, str) else None
        return self.one.convert(value, param, ctx) if several is None else several


class Fraction(click.FloatRange):
    """A number in a range, which NaN is not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        converted = super().convert(value, param, ctx)
        return self.fail("nan is not a number", param, ctx) if math.isnan(converted) else converted


def number(least: int, most: int = MOST) -> Number:
    """The type of an option that takes a whole number from `least` to `most`."""
    return Number(least, most)


SHOW = "Show it in the terminal (kitty, iTerm2, sixel), or in the viewer."
SEED = click.IntRange(0, 2**53 - 1)
SAMPLES = click.IntRange(2, 1_000_000)


def refuse_existing(out: Path) -> None:
    """Refuses an --out for a bundle that exists, if only as a link to nothing."""
    if out.exists() or out.is_symlink():
        raise UsageError(f"{safe_text(out)} exists already; a bundle never overwrites: choose another --out")
