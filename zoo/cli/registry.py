"""`zoo registry`: adds, lists, removes and signs registries."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from ..system.urls import shown
from ..text import did_you_mean, safe_text
from .options import OUT, PATH, number, option, refuse_existing
from .output import as_json, note, path, table

if TYPE_CHECKING:
    from ..formats.registry import Registry


class _Group(click.Group):
    def resolve_command(self, ctx: click.Context, args: list[str]):
        if args and args[0] not in self.commands:
            raise UsageError(
                f"there is no command 'registry {safe_text(args[0])}'"
                + (did_you_mean(args[0], self.commands) or f"; there are {', '.join(self.commands)}")
            )
        return super().resolve_command(ctx, args)


@click.group("registry", cls=_Group)
def command() -> None:
    """Add, list and remove registries, and sign your own.

    \b
    Example:
      zoo registry add lab https://models.example.org/
      zoo registry list
    """


@command.command("add")
@click.argument("name")
@click.argument("place", metavar="URL|FOLDER")
@click.option(
    "--in-process", is_flag=True, help="Run its models in the calling process, without limits, as the built-in ones."
)
@click.option(
    "--key", "keys", multiple=True, metavar="ed25519:HEX", help="It must be signed by this public key; repeat for all."
)
def add(name: str, place: str, in_process: bool, keys: tuple[str, ...]) -> None:
    """Add a registry under a name of your choice; it is read once to check it.

    Its models run in a worker process, which a deadline and a memory limit end: a stranger's graph can crash ONNX
    Runtime or never finish. --in-process runs the models of a registry that you control in the calling process. Adding
    a registry again, with or without --in-process, changes only that.

    A signed registry must stay signed by the keys that it has when it is first read, or by those that they name. With
    --key, which its publisher gives you, that is certain from the first read on.

    \b
    Example:
      zoo registry add lab https://models.example.org/
      zoo registry add mine ~/models
    """
    from ..store import catalogue
    from ..system.ed25519 import parse_key

    registry = catalogue.add(name, place, in_process=in_process, keys=[parse_key(key) for key in keys])
    if registry.url.startswith("http:"):
        note("plain http: anyone in between can change what this registry says; https prevents that")
    count = len(registry.document.models)
    note(f"{name}: {count} model{'' if count == 1 else 's'} at {shown(registry.url)}")


@command.command("list")
@option("--json", "json_", is_flag=True, help="Print JSON.")
def list_(json_: bool) -> None:
    """List the registries in the order in which they are searched, where their models run, and how long each is signed.

    \b
    Example:
      zoo registry list
    """
    from ..store import catalogue
    from ..store.trust import is_trusted

    parts: dict[str, list[Registry]] = {}  # the default one has a part for each distribution
    for registry in catalogue.registries():
        parts.setdefault(registry.name, []).append(registry)
    rows = [
        {
            "name": name,
            "models": len({model for part in of for model, listed in part.document.models.items() if listed.versions}),
            "in_process": is_trusted(of[0]),
            "signed": _signed(name, of[-1].url),
            "url": shown(of[-1].url),  # of the default registry: its list
        }
        for name, of in parts.items()
    ]
    if json_:
        as_json(rows)
    else:
        runs = {True: "in process", False: "in a worker"}
        until = [f"until {row['signed']['expires']}" if row["signed"] else "no" for row in rows]
        cells = [
            (row["name"], row["models"], runs[row["in_process"]], signed, row["url"])
            for row, signed in zip(rows, until, strict=True)
        ]
        table(cells, ["name", "models", "runs", "signed", "url"])


def _signed(name: str, url: str) -> dict[str, object] | None:
    from ..store.catalogue import signature

    if not (known := signature(name, url)):
        return None
    from ..store.signed import day

    return {
        "as": known.registry, "serial": known.serial, "expires": day(known.expires), "keys": known.keys,
        "threshold": known.threshold,
    }  # fmt: skip


@command.command("remove")
@click.argument("name")
def remove(name: str) -> None:
    """Remove an added registry. Models pulled from it stay; `zoo rm` removes them.

    \b
    Example:
      zoo registry remove lab
    """
    from ..store import catalogue

    catalogue.remove(name)
    note(f"removed the registry {name}")


@command.command("keygen")
@option("--out", "-o", type=OUT, required=True, help="The private key's file; only you can read it.")
def keygen(out: Path) -> None:
    """Make a key for signing registries, and print its public key.

    Whoever has the file can sign in your name: keep it off the server that has the registry, and keep a copy.

    \b
    Example:
      zoo registry keygen --out lab.key
    """
    from ..system.ed25519 import SigningKey
    from ..system.files import write_atomically

    refuse_existing(out)
    key = SigningKey.new()
    write_atomically(out, key.encode(), private=True)
    note(f"wrote the private key {out}; its public key, for `zoo registry add --key`, is")
    click.echo(key.public)


@command.command("sign")
@click.argument("folder", type=PATH)
@option("--key", "key_files", type=PATH, multiple=True, required=True, metavar="FILE",
        help="A private key; repeat to sign with several.")  # fmt: skip
@option("--name", metavar="NAME", help="What the registry calls itself; for the first signature.")
@option("--trust", multiple=True, metavar="ed25519:HEX",
        help="A public key that counts from now on; repeat for all. Default: as before.")  # fmt: skip
@option(
    "--threshold", type=number(1, 32), help="This many of the keys must sign from now on. Default: as before, or 1."
)
@option("--days", type=number(1, 365), default=90, show_default=True, help="The signature expires after this.")
def sign(
    folder: Path,
    key_files: tuple[Path, ...],
    name: str | None,
    trust: tuple[str, ...],
    threshold: int | None,
    days: int,
) -> None:
    """Sign the registry in FOLDER as it is now, and print the path of the signature.

    Sign again after each change of registry.yaml (zoo publish --sign does), and before the signature expires. While
    fewer keys have signed than must, it waits in registry.sig.part: the owners of the others run the same command.
    --trust replaces the keys: enough of the old and of the new ones must sign.

    \b
    Example:
      zoo registry sign my-registry/ --key lab.key --name lab
      zoo registry sign my-registry/ --key lab.key --key new.key --trust ed25519:…
    """
    from ..store.signed import day
    from ..store.signing import Change, sign
    from ..system.ed25519 import SigningKey, parse_key

    change = Change(name, tuple(map(parse_key, trust)) or None, threshold, days)
    done = sign(folder, [SigningKey.read(file) for file in key_files], change)
    says = done.statement
    if done.missing:
        note(f"serial {says.serial} of '{says.registry}' waits for {done.missing} more of {', '.join(done.of)}")
    else:
        note(f"signed '{says.registry}', serial {says.serial}, until {day(says.expires)}; keys: {', '.join(says.keys)}")
    path(done.file)
