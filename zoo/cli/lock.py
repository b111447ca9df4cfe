"""`zoo lock`: chooses the versions of a project's models, and writes them down."""

from pathlib import Path

import click

from ..errors import UsageError
from .options import MODEL, OUT, option
from .output import note, path


@click.command("lock")
@click.argument("models", type=MODEL, nargs=-1, metavar="[MODEL]...")
@option("--upgrade", is_flag=True, help="Lock the newest versions, whatever was locked.")
@option("--check", "checks", is_flag=True, help="Write nothing; fail if the lock file is out of date.")
@option("--file", "file", type=OUT, default="zoo.lock", show_default=True, metavar="FILE", help="The lock file.")
@option("--registry", "places", multiple=True, metavar="URL|FOLDER", help="Look in this registry first.")
def command(models: tuple[str, ...], upgrade: bool, checks: bool, file: Path, places: tuple[str, ...]) -> None:
    """Lock the versions of a project's models in zoo.lock: registry, version, digest, size, licence.

    MODEL is a reference, or a name and a range: 'lab/portraits>=2,<4'. Without any, the models in [tool.zoo] of
    pyproject.toml are locked, else those in zoo.lock again. What is locked stays until --upgrade. zoo pull --locked,
    zoo run --locked and zoo.load(..., locked=True) then use exactly what is locked, or fail.

    \b
    Example:
      zoo lock vqvae-fashion 'ddpm-fashion>=1'
      zoo lock --check
      zoo pull --locked
    """
    from ..formats.lock import FORMAT, Lock, read, write
    from ..store.catalogue import registries
    from ..store.lock import check, make, wanted

    if checks and upgrade:
        raise UsageError("--check writes nothing; give either it or --upgrade")
    wants = wanted(models, file)
    before = read(file) if checks or (file.exists() and not upgrade) else Lock(format=FORMAT)
    known = registries(places, refresh=True)
    if checks:
        check(before, wants, known)
        return note(f"{file} is up to date: {len(before.models)} model{'' if len(before.models) == 1 else 's'}")
    lock = make(wants, known, before, upgrade=upgrade)
    write(lock, file)
    for text, one in lock.models.items():
        note(f"{text}: {one.registry}/{one.name}:{one.version}, {one.license}")
    return path(file)
