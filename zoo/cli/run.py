"""`zoo run`: runs a task of a model."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import NotFoundError, UsageError
from ..text import human_bytes, safe_text
from .many import many_options, run_if_many
from .options import SHOW, OnceOption, Several, number, option
from .output import as_json, note, path, progress, table

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ..formats.registry import Entry
    from ..hookspecs import Task
    from ..ports.kind import Option
    from ..run.call import Call, Result
    from ..run.outputs import Written
    from ..store.locate import Bundle

DEVICES = click.Choice(["auto", "cpu", "cuda"])
PICTURE = re.compile(r"[.](png|jpe?g|webp|gif|bmp|npy|safetensors)$", re.IGNORECASE)
"""Names of files that a task may take."""
ISOLATE = ["--isolate/--no-isolate", "isolated"]
ISOLATE_HELP = "Run the model in a worker process, or in this one.  [default: a worker for a stranger's model]"


def how_to_run(command: Any) -> Any:
    """The options of `zoo compare` and `zoo animate` for where models come from, run, and are shown."""
    for add in reversed([
        option("--show", "shown", is_flag=True, help=SHOW),
        option("--device", type=DEVICES, default="auto", show_default=True),
        option(*ISOLATE, default=None, help=ISOLATE_HELP),
        option("--registry", "registries", multiple=True, metavar="URL|FOLDER", help="Also look in this registry."),
        option("--json", "as_data", is_flag=True, help="Print the result as JSON."),
    ]):  # fmt: skip
        command = add(command)
    return command


class _Run(click.Command):
    """A command whose options are those of the model's task, for completion too."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        return _complete(ctx, None, incomplete)


def _complete(ctx: click.Context, _: click.Parameter | None, incomplete: str) -> "list[CompletionItem]":
    from .completion import run_words

    words = list(ctx.params.get("words") or ())
    return run_words(words, incomplete, lambda bundle, task: task_command(bundle, task, words[0], "zoo run"))


@click.command(
    "run", cls=_Run, add_help_option=False, options_metavar="", context_settings={"ignore_unknown_options": True}
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="MODEL [TASK] [OPTIONS]", shell_complete=_complete)
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Run one of a model's tasks: pictures, labels and seeds in, pictures, tokens or numbers out.

    MODEL is a reference (vqvae-fashion, name:2, registry/name) or a bundle's folder (./name, /models/name); a model
    that is not available locally is fetched. TASK is one of the model's tasks; the default is the model's default task.
    Each task has its own options: `zoo run MODEL TASK --help` lists them with their ranges and defaults.

    Pictures come from files, folders, patterns ('in/*.png'), lists (@FILE), .npz, .npy and IDX files. They are written
    as PNG: one grid, or one file each with --out 'out/{stem}.png' or 'x-{i}.png'. Their metadata records how they were
    made, for `zoo again`. Without --out, the file is named after model, task and seed, and nothing is overwritten; a
    file named with --out is overwritten. --out - is stdout.

    A label, seed or number may be a list: `--label sneaker,bag --seed 0..7` draws every label with every seed;
    `--label all` is every class. With several pictures, one list has a value for each of them.

    \b
    Options of every task:
      --out FILE                Output file, or - for stdout. With {stem}, {index}, {i}, {label} or {seed}
                                in the name: one file per picture. .csv, .jsonl, .parquet: a table.
      --example                 Take inputs that are not given from the model's own example.
      --scale N, --sheet        Enlarge pictures for looking; put all on one, with captions.
      --show                    Show pictures in the terminal (kitty, iTerm2, sixel), or in the viewer.
      --invert, --fit           Negatives of pictures; scaled to the model's own size, uncropped.
      --device [auto|cpu|cuda]  auto: CUDA if it works; cuda: CUDA or an error.
      --isolate, --no-isolate   Run in a worker process, or in this one; default: a worker, unless
                                the model is built in, trusted, or made on this machine.
      --registry URL|FOLDER     Also look in this registry; may be repeated.
      --locked                  Exactly the version in ./zoo.lock.
      --json                    Print the result as JSON.

    \b
    Options for many pictures:
      --from-file FILE          A list of files, one a line; -: stdin.
      --batch-size N            Pictures at a time; default: as fit the memory.
      --keep-going              Name files that cannot be read, and pass over them.
      --resume                  Only make what is missing from --out.

    \b
    Example:
      zoo run vqvae-fashion reconstruct --image shoe.png --out again.png
      zoo run vqvae-fashion encode shoe.png --out tokens.npy
      zoo run judge-fashion classify photos/ --out labels.csv
      zoo run ddpm-fashion --label all --seed 0..3 --sheet --out clothes.png
    """
    if words[:1] in (("-h",), ("--help",)):
        click.echo(ctx.get_help())
        return
    if not words:
        raise UsageError("name a model: zoo run MODEL [TASK] [OPTIONS]; `zoo list` lists them")
    model, task, rest = _split(*words)
    bundle = _locate(_locked(model) if "--locked" in rest else model, rest)
    if task and task not in bundle.manifest.tasks:
        _refuse_file_as_task(bundle, model, task)
    chosen = task_command(bundle, task, model, f"{ctx.command_path} {safe_text(model)}")
    with chosen.make_context(chosen.name, rest) as task_ctx:
        chosen.invoke(task_ctx)


def _split(model: str, *rest: str) -> tuple[str, str | None, list[str]]:
    """Model, task and the rest: the task comes directly after the model."""
    if model.startswith("-"):
        raise UsageError("the model comes first: zoo run MODEL [TASK] [OPTIONS]")
    if rest and not rest[0].startswith("-"):
        return model, rest[0], list(rest[1:])
    return model, None, list(rest)


def _refuse_file_as_task(bundle: "Bundle", model: str, word: str) -> None:
    """For a file where the task would be, raises the UsageError that names the option for it."""
    import shlex

    from ..run.call import option_name
    from ..system.paths import is_file

    default, tasks = bundle.manifest.default_task, bundle.manifest.tasks
    if not is_file(word) and not PICTURE.search(word):
        return  # a misspelt task
    for name in sorted(tasks, key=lambda name: name != default):
        if (main := _main_input(tasks[name])) and main.file:
            option, file = option_name(main.name), shlex.quote(safe_text(word))
            line = f"zoo run {shlex.quote(safe_text(model))} {name} {option} {file}"
            raise UsageError(f"'{safe_text(word)}' is a file, not a task; {name} takes it with {option}: {line}")


def _locked(model: str) -> str:
    """The complete reference that ./zoo.lock has for the model."""
    from ..store.lock import locked_reference

    return locked_reference(model)


def _locate(model: str, rest: list[str]) -> "Bundle":
    """The bundle. Its manifest defines the options, so this comes before they are parsed."""
    registries = [w.partition("=")[2] for w in rest if w.startswith("--registry=")]
    registries += [after for word, after in zip(rest, rest[1:], strict=False) if word == "--registry"]
    if "--help" not in rest and "-h" not in rest:
        isolated = {"--isolate": True, "--no-isolate": False}
        chosen = next((isolated[word] for word in reversed(rest) if word in isolated), None)
        return locate_with_progress(model, registries, chosen)
    from ..store.locate import locate

    try:
        return locate(model, registries=registries, pull=False)
    except NotFoundError as e:
        raise NotFoundError(f"{e}; `zoo info` shows what the registry says about it") from None


def locate_with_progress(
    model: str, registries: Sequence[str], isolated: bool | None = None, *, prepares: bool = True
) -> "Bundle":
    """The bundle, fetched if it is not available locally, after printing how many bytes that takes.

    Args:
        isolated: as for `zoo.store.locate.locate`.
        prepares: start the process that runs the model right away, and import what a call needs meanwhile.
    """
    from ..store.locate import locate

    bars: list[Any] = []

    def on_pull(entry: "Entry", missing: int) -> None:
        note(f"{entry} is not in the store: fetching {human_bytes(missing)}")
        bars.append(progress(missing, str(entry)))

    try:
        return locate(
            model, registries=registries, isolated=isolated, meanwhile=_prepare if prepares else None, on_pull=on_pull,
            on_bytes=lambda count: bars[-1].update(count),
        )  # fmt: skip
    finally:
        for bar in bars:
            bar.close()


def _prepare() -> None:
    from ..run import call, outputs  # noqa: F401
    from ..run.model import prepare

    prepare()


def task_command(bundle: "Bundle", task_name: str | None, model: str, path: str) -> click.Command:
    """The command of one task, generated from its ports."""
    from ..ports.image import images_of
    from ..ports.kinds import drawn, kind_of
    from ..run.call import option_name, options_of
    from ..run.products import MAX_SCALE, takes_list
    from .examples import class_names, examples

    name, task = bundle.manifest.task(task_name)
    lists = {port_name for port_name, port in task.inputs.items() if takes_list(port)}
    params: list[click.Parameter] = [
        OnceOption(
            [option_name(option.name), f"port_{option.name}"],
            type=Several(option.type) if option.name in lists and option.type is not str else option.type,
            multiple=option.multiple,
            metavar=option.metavar,
            help=option.help,
        )
        for option in options_of(task)
    ]
    if main := _main_input(task):
        params.append(click.Argument(["files"], nargs=-1, metavar=f"[{main.name.upper()}]..."))
    if drawn(task.inputs):
        params.append(OnceOption(["-n", "number"], type=int, metavar="N", help="How many pictures.  [default: 1]"))
    if (main and main.multiple) or drawn(task.inputs):
        params += many_options(main)
    if task.tile:
        params.append(OnceOption(["--tile"], type=int, metavar="PIXELS", help="Work in tiles of this side length."))
    if images_of(task.inputs):
        params += [
            OnceOption(["--invert"], is_flag=True, help="Make a negative of each picture, e.g. for white on black."),
            OnceOption(["--fit"], is_flag=True, help="Scale pictures to the model's own size, without cropping."),
        ]
    if any(kind_of(port).form_in(port, task.outputs).viewable for port in task.outputs.values()):
        params += [
            OnceOption(["--scale"], type=number(1, MAX_SCALE), metavar="N", help="Enlarge the pictures, for looking."),
            OnceOption(["--sheet"], is_flag=True, help="All pictures as one, each with a caption."),
            OnceOption(["--show"], is_flag=True, help=SHOW),
        ]
    params += [
        OnceOption(["--example"], is_flag=True, help="Take inputs that are not given from the model's own example."),
        OnceOption(["--out"], metavar="FILE", help="Output file; -: stdout, x-{i}.png: one file per picture."),
        OnceOption(["--device"], type=DEVICES, default="auto", show_default=True),
        OnceOption(ISOLATE, default=None, help=ISOLATE_HELP),
        OnceOption(["--registry"], multiple=True, metavar="URL|FOLDER", help="Also look in this registry."),
        OnceOption(["--locked"], is_flag=True, help="Exactly the version in ./zoo.lock."),
        OnceOption(["--json"], is_flag=True, help="Print the result as JSON."),
    ]
    others = [safe_text(other) for other, task in bundle.manifest.tasks.items() if other != name and not task.part_of]
    lines = list(examples(model, name, task))
    return click.Command(
        f"{path} {name}",
        params=params,
        callback=lambda **options: _run(bundle, name, options),
        help=f"{safe_text(task.summary).rstrip('.')}."
        + "".join(f"\n\n{line}" for line in class_names(task))
        + (f"\n\nOther tasks of {bundle.manifest.name}: {', '.join(others)}." if others else "")
        + "".join(["\n\n\b\nExample:", *(f"\n  {line}" for line in lines)] if lines else []),
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _main_input(task: "Task") -> "Option | None":
    """The option for files given without an option: the first that takes pictures or tokens."""
    from ..run.call import options_of

    return next((option for option in options_of(task) if option.positional), None)


def _run(bundle: "Bundle", task_name: str, options: dict[str, Any]) -> None:
    from ..run.batches import batch_length
    from ..run.call import execute, gather
    from ..run.model import Model
    from ..run.outputs import check_out, lost_in, refuse_to_overwrite, write_outputs
    from ..run.products import check_resume, expand, with_view
    from ..run.show import check_show, show

    out, as_data = options["out"], options["json"]
    if as_data and out == "-":
        raise UsageError("--json and --out - both write to stdout; choose one")
    if options.get("show"):
        check_show(out, as_data)
    model, task = Model(bundle, options["device"]), bundle.manifest.tasks[task_name]
    notes: list[str] = []

    def say(line: str) -> None:
        notes.append(line)
        note(line)

    given = {name.removeprefix("port_"): value for name, value in options.items() if name.startswith("port_")}
    main = _main_input(task)
    if files := options.get("files"):
        assert main is not None  # otherwise there is no such argument
        if given.get(main.name):
            raise UsageError(f"give {main.name} only once: with --{main.name}, or as files without an option")
        if not main.multiple and len(files) > 1:
            raise UsageError(f"{task_name} takes one file for {main.name}, not {len(files)}")
        given[main.name] = files if main.multiple else files[0]
    sheet, example, tile = bool(options.get("sheet")), options["example"], options.get("tile")
    if options.get("resume"):
        check_resume(task, given)
    if lost := lost_in(task, out):
        say(lost)
    product, size = expand(task, given, options.get("number"), say), None
    if "batch_size" in options:
        counted = options | {"number": product.number, "lists": product.lists}
        size = run_if_many(model, task_name, main, product.given, counted, say, notes)
        if size is True:
            return
    else:
        from ..run.naming import check_only_numbered

        check_only_numbered(out)
        check_out(task_name, task, out)
    call = gather(
        model, task_name, product.given, number=product.number, example=example, tile=tile,
        invert=bool(options.get("invert")), fit=bool(options.get("fit")), note=say,
    )  # fmt: skip
    call = with_view(model, call, options.get("scale"), product.columns, sheet)
    refuse_to_overwrite(out, call, batch_length(task.inputs, call.inputs))
    result = execute(model, call, size or None)
    if result.left_on_cpu:
        say("left on the CPU: " + ", ".join(f"{count} {op}" for op, count in result.left_on_cpu.items()))
    written = write_outputs(model, call, result, out)
    if as_data:
        as_json(_report(model, call, result, written, notes))
        return
    device, colon, why_not_cuda = result.device.partition(": ")  # the line ends with a command that is copied
    note(f"on {device}, {result.seconds:.2f} s{colon}{why_not_cuda}")
    for place in written.paths:
        path(place)
    if options.get("show"):
        show(written.paths, note)
    if written.values:
        _show(written.values, task, call)


def _report(model: Any, call: "Call", result: "Result", written: "Written", notes: list[str]) -> dict[str, Any]:
    return {
        "model": model.reference, "digest": model.digest, "task": call.task, "paths": written.paths,
        "values": written.values, "seed": call.seed, "provider": result.provider, "device": result.device,
        "seconds": round(result.seconds, 4), "notes": notes,
    }  # fmt: skip


def _show(values: dict[str, Any], task: "Task", call: "Call") -> None:
    """Labels as a table with their scores and the runners-up; other numbers as JSON."""
    labels = {name: value for name, value in values.items() if value and isinstance(value[0], dict)}
    if not labels:
        as_json(values)
        return
    files = [f.name for files in call.files.values() for f in files]
    (name, chosen), *_ = labels.items()
    classes = task.outputs[name].classes
    scores = next((v for v in values.values() if isinstance(v[0], list) and len(v[0]) == len(classes)), None)
    rows = []
    for i, label in enumerate(chosen):
        row = [files[i] if len(files) == len(chosen) else i, label["name"]]
        if scores:
            order = sorted(range(len(classes)), key=lambda c: -scores[i][c])
            others = [f"{classes[c]} {scores[i][c]:.3f}" for c in order if c != label["number"]][:3]
            row += [f"{scores[i][label['number']]:.3f}", ", ".join(others)]
        rows.append(row)
    table(rows, ["picture", name, "score", "next"][: len(rows[0])])
