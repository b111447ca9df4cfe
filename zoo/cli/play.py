"""`zoo play`: opens a model's page in the browser. The page itself is in plugins/targets/zoo_targets/hosts/web/."""

import click

from .options import MODEL, option
from .output import note
from .run import ISOLATE, ISOLATE_HELP


@click.command("play")
@click.argument("model", type=MODEL)
@option("--port", type=click.IntRange(0, 65535), default=0, help="The server's port; default: a free one.")
@option("--no-browser", is_flag=True, help="Only print the address.")
@option(*ISOLATE, default=None, help=ISOLATE_HELP)
@option("--registry", "registries", multiple=True, metavar="URL|FOLDER", help="Also look in this registry.")
def command(model: str, port: int, no_browser: bool, isolated: bool | None, registries: tuple[str, ...]) -> None:
    """Serve MODEL's page, as `zoo export --target web` writes it, on 127.0.0.1 and open it. Ctrl-C stops the server.

    The browser does the computing; the server only serves files.

    \b
    Example:
      zoo play vqvae-fashion
    """
    import webbrowser
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from ..errors import StoreError
    from ..ship.export import export
    from ..site import Site
    from ..system.processes import Terminated
    from .run import locate_with_progress

    bundle = locate_with_progress(model, registries, isolated, prepares=False)
    with TemporaryDirectory(prefix="zoo-play-") as folder:
        site_folder = Path(folder) / "site"
        export(bundle, "web", site_folder)
        try:
            site = Site(site_folder, port)
        except OSError as e:
            raise StoreError(f"cannot serve on port {port}: {e.strerror}; choose another --port") from None
        with site:
            try:
                click.echo(site.url)
                if not no_browser and not webbrowser.open(site.url):
                    note("cannot open a browser: open the address yourself")
                site.serve_forever()
            except (KeyboardInterrupt, Terminated):
                note("stopped")
