"""The user's own mistakes are one line: every command with odd paths, URLs, numbers and files, and with closed streams.

The calls come from click's tree: each option and argument of each command is given each odd value, while the required
others have a good one (GOOD). A command or a parameter that is new is swept too, or missing in GOOD.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import pytest

from tests import tiny
from tests.tiny_tasks import studio
from zoo.errors import exit_codes
from zoo.run.call import option_name, options_of

from .commands import zoo
from .tree import leaves

pytestmark = pytest.mark.slow

GOOD = {
    "model": "./studio", "models": "./studio", "what": "judge", "family": "judge", "data": "data.npz", "out": "new",
    "target": "python", "source": "vqvae-fashion", "path": "model.ckpt", "bundle": "./studio", "folder": "published",
    "picture": "made.png", "name": "name", "place": "registry", "shell": "bash", "other": "./studio",
    "task": "reconstruct", "inputs": "made.png",
    "key_files": "lab.key",
}  # fmt: skip
"""A value for each required parameter, by its name."""

SLOW_IF_RIGHT = {"train", "build", "import", "eval", "export", "play", "serve", "batch", "plugin check", "plugin new"}
"""Commands that take long when nothing is wrong: the sweep gives them nothing that is right."""

WRITES = {"run", "publish", "rm", "registry remove", "registry keygen", "doctor"}
"""Commands that leave something behind, or find something to report, when nothing is wrong."""

FOLDERS = {("train", "checkpoints"), ("train", "tensorboard"), ("batch", "out")}
"""Parameters for which any folder is right."""

KEYS = {"text", "not UTF-8"}
"""Files that `zoo serve --api-key` takes, and then serves: any line of ASCII is a key."""

LOGS = KEYS | {"a link to nothing"}
"""Those to which `zoo serve --access-log` adds its lines, besides new ones; it serves then."""

ODD_PATHS = {
    "a folder": "folder", "a file that must not be read": "secret", "a folder that must not be read": "locked/x",
    "a named pipe": "pipe", "a device": "/dev/null", "an endless device": "/dev/zero", "a loop of links": "loop",
    "a link to nothing": "dangling", "a file as a folder": "text.txt/x", "300 bytes": "a" * 300,
    "300 bytes with a separator": "./" + "a" * 300, "a long path": "./" + "a/" * 3000, "not UTF-8": b"odd\xff.png",
    "not UTF-8, not there": b"none\xff", "an unknown user": "~nobody-here/x", "empty": "", "text": "text.txt",
    "a URL": "http://user:s3cret@127.0.0.1:9/x?token=s3cret", "another URL": "s3://bucket/x.png",
    "nothing": "nowhere", "memory": "/proc/self/mem", "a newline": "a\nb", "escape": "a\x1b[31m",
}  # fmt: skip

NEW = {"not UTF-8, not there", "nothing", "a newline", "escape"}
"""Those that are good names for something new."""

URLS = [
    "http://[::1", "http://[::1]:99999/", "http://user:s3cret@127.0.0.1:9/", "http://127.0.0.1:9/x?token=s3cret",
    "http://u:s3cret@[::1", "http://u:s3/cret@127.0.0.1:9/", "http://u:s3?cret@127.0.0.1:9/", "http://", "https:///x",
    "http:/127.0.0.1", "ftp://user:s3cret@example.invalid/", "data:text/plain,x", "javascript:alert(1)",
    "file://host/x", "file:///nowhere?token=s3cret", "file:///a%00b", "http://127.0.0.1:9/" + "a" * 3000,
    "http://a b/", "http://" + "a" * 300 + "/", "http://xn--/", "http://127.0.0.1:9/\x1b[31m", "http://-/", "x://y",
    "HTTP://USER:s3cret@127.0.0.1:9", "http://\u202e.invalid:9/", "http://127.0.0.1:x/?s3cret",
    "http:/u:s3cret@127.0.0.1/", "//u:s3cret@127.0.0.1/", "https//u:s3cret@127.0.0.1/", "http://u:s3c ret@127.0.0.1/",
]  # fmt: skip

WRITTEN = {"a device", "an endless device", "not UTF-8"}
"""What `zoo run --out` and `zoo live --out` may write into."""

READ = ("data", "path", "picture", "source", "model", "models", "other")
"""The parameters that name files with contents of many kinds."""

WITH_TORCH = {"train", "build", "import", "eval"}
"""Commands that make or measure models."""

NUMBERS = ["nan", "inf", "-inf", "1e300", "1" + "0" * 300, "-1" + "0" * 300, "", "x", "-5"]

ODD_FILES = {
    "nan.npy": np.full((1, 4, 4, 1), np.nan, np.float32),
    "scalar.npy": np.array(1, np.int64),
    "empty.npy": np.zeros((0, 3), np.int64),
    "negative.npy": np.full((1, 2, 2), -7, np.int64),
    "deep.npy": np.zeros((1,) * 20, np.int64),
    "objects.npz": {"images": np.zeros((0, 8, 8), np.uint8), "labels": np.zeros(0, np.int64)},
    "ranks.npz": {"images": np.zeros((4, 8), np.uint8), "labels": np.zeros((4, 1), np.int64)},
    "channels.npz": {"images": np.zeros((4, 8, 8, 7), np.uint8), "labels": np.zeros(4, np.int64)},
    "empty.npz": {},
    "infinite.npz": {"images": np.full((4, 8, 8), np.inf), "labels": np.full(4, np.nan)},
    "labels.npz": {"images": np.zeros((4, 8, 8), np.uint8), "labels": np.full(4, 2**62)},
    "classes.npz": {"images": np.zeros((4, 28, 28), np.uint8), "labels": np.zeros(4, int), "classes": np.array([])},
    "scalars.npz": {"images": np.uint8(3), "labels": np.int64(3)},
    "zero.npz": {"images": np.zeros((4, 0, 0, 1), np.uint8), "labels": np.zeros(4, np.int64)},
}  # fmt: skip


GOOD_PICTURES = {"labels.npz", "classes.npz"}
"""Those whose pictures are good; `zoo run` reads no labels."""


@dataclass(frozen=True)
class Call:
    """A command line, what is odd about it, and what may come of it."""

    words: list[str | bytes]
    what: str
    may_work: bool = False
    closed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """A folder that everybody may write, with good files and odd ones, and the processes that run commands in it."""

    folder: Path
    processes: dict[bool, subprocess.Popen]  # with and without torch


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="zoo-mistakes-"))
    try:
        _fill(folder)
        (folder / "home" / "store").mkdir(mode=0o777)
        with _started(folder) as without, _started(folder, "torch") as with_torch:
            yield Place(folder, {False: without, True: with_torch})
            for process in (without, with_torch):
                process.stdin.close()  # which ends it
    finally:
        (folder / "locked").chmod(0o700)
        shutil.rmtree(folder)


def _fill(folder: Path) -> None:
    folder.chmod(0o777)
    studio(folder / "studio")
    tiny.registry(folder / "registry", tiny.bundle(folder / "tiny"))
    assert zoo("run", folder / "studio", "generate", "--seed", 1, "--out", folder / "made.png").code == 0
    pictures = np.random.default_rng(0).integers(0, 256, (8, 28, 28), dtype=np.uint8)
    np.savez(folder / "data.npz", images=pictures, labels=np.arange(8))
    for name, content in ODD_FILES.items():
        (np.savez(folder / name, **content) if name.endswith("z") else np.save(folder / name, content))
    (folder / "model.ckpt").write_bytes(b"no checkpoint")
    assert zoo("registry", "keygen", "--out", folder / "lab.key").code == 0
    for name in ("folder", "locked", "looped", "piped", "html", "published", "home"):
        (folder / name).mkdir()
    (folder / "text.txt").write_text("text")
    (folder / "secret").write_text("secret")
    (folder / "secret").chmod(0)
    (folder / "locked").chmod(0)
    os.mkfifo(folder / "pipe")
    for name in ("registry.yaml", "model.yaml", "export.json", "README.md", "train-images-idx3-ubyte", "config.json"):
        os.mkfifo(folder / "piped" / name)
        (folder / "looped" / name).symlink_to(name)
        (folder / "html" / name).write_text("<!doctype html><title>Sign in</title>")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nothing")
    (folder / os.fsdecode(b"odd\xff.png")).write_bytes(b"no picture")
    for path in (folder / "home", folder / "published", folder / "folder"):
        path.chmod(0o777)


def _started(folder: Path, *words: str) -> subprocess.Popen:
    root = Path(__file__).parents[2]
    environment = os.environ | {"ZOO_HOME": str(folder / "home" / "store"), "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "tests.mistakes", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdin=pipe, stdout=pipe, text=True)


def answers(place: Place, calls: list[Call]) -> list[dict]:
    """What the calls gave, in order. Both processes work at the same time."""

    def asked(torch: bool) -> dict[int, dict]:
        process, given = place.processes[torch], {}
        for i, call in enumerate(calls):
            if (call.words[0] in WITH_TORCH) == torch:
                words = [base64.b64encode(os.fsencode(word)).decode() for word in call.words]
                process.stdin.write(json.dumps({"words": words, "closed": call.closed}) + "\n")
                process.stdin.flush()
                given[i] = json.loads(process.stdout.readline())
        return given

    with ThreadPoolExecutor() as pool:
        without, with_torch = pool.map(asked, (False, True))
    return [(without | with_torch)[i] for i in range(len(calls))]


def snapshot(folder: Path) -> set[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.name != ".registry.lock")
    return {str(path) for path in found if path.parts[0] != "home"}


def check(place: Place, calls: list[Call]) -> None:
    """Each call is one line with a documented code, or works if it may; none hangs, shows a secret or leaves a file."""
    before = snapshot(place.folder)
    wrong = []
    for call, given in zip(calls, answers(place, calls), strict=True):
        code, err = given["code"], given["err"]
        errors = [line for line in err.splitlines() if line.startswith("Error: ")]
        refused = code in exit_codes() and code not in (0, 1) and err.endswith("\n") and err.splitlines()[-1:] == errors
        if "stderr" in call.closed:
            refused = code in exit_codes() and code != 1 and not err
        worked = call.may_work and code == 0 and not errors
        if not (refused or worked) or "s3cret" in err + given["out"] or re.search("Traceback|\x1b", err + given["out"]):
            shown = " ".join(os.fsdecode(word)[:60] for word in call.words).encode("utf-8", "backslashreplace").decode()
            wrong.append(f"{call.what}: zoo {shown}: {code} {err[-300:]!r} {given['out'][-80:]!r}")
    left = snapshot(place.folder) - before
    assert not wrong and not left, f"{len(wrong)} of {len(calls)} calls:\n" + "\n".join(wrong) + f"\nleft: {left}"


def _given(command: click.Command, words: list[str], param: click.Parameter, value: str | bytes) -> list[str | bytes]:
    """The command line with a value for one parameter and good ones for the others that are required."""
    line: list[str | bytes] = [*words]
    good = GOOD | (
        dict.fromkeys(("model", "models", "other"), "vqvae-fashion") if "registr" in " ".join(param.opts) else {}
    )  # not for a path
    options, arguments = [], []
    for other in command.params:
        this = value if other is param else good[other.name] if other.required else None
        if this is None:
            continue
        if isinstance(other, click.Argument):
            arguments.append(this)
        else:
            options += [max(other.opts, key=len), this]
    return [*line, *options, "--", *arguments] if arguments else [*line, *options]


def parameters(kind: str) -> Iterator[tuple[str, click.Command, click.Parameter]]:
    """The parameters of all commands whose values are of a kind (`path`, `url`, `number`), by what their help shows."""
    for name, command in leaves().items():
        for param in command.params:
            if getattr(param, "is_flag", False) or isinstance(param.type, click.Choice) or name == "run":
                continue
            shown = param.make_metavar(click.Context(command)).upper()
            kinds = {
                "path": isinstance(param.type, click.Path) or re.search("FILE|FOLDER|MODEL|PICTURE", shown),
                "url": "URL" in shown,
                "number": param.type.name in ("integer", "float", "integer range", "float range"),
            }
            if kinds[kind]:
                yield name, command, param


def runs() -> Iterator[tuple[list[str], str, bool]]:
    """`zoo run` of the studio: the words before a value, the option, and whether it takes a path."""
    from zoo.formats.manifest import read

    with tempfile.TemporaryDirectory() as folder:
        tasks = read(studio(Path(folder) / "studio")).tasks
    for name, task in tasks.items():
        for option in options_of(task):
            yield ["run", "./studio", name, "--example", "--out", "new.png"], option_name(option.name), option.file
    for option in ("--out", "--registry"):
        yield ["run", "./studio", "generate", "--example"], option, True


def test_paths(place):
    calls = [
        Call(
            _given(command, name.split(), param, value),
            f"{param.name} is {what}",
            # No line is given, so nothing is written, and a pipe needs no reader.
            (name, param.name) == ("live", "out") and what in WRITTEN | {"a named pipe"},
        )
        for name, command, param in parameters("path")
        for what, value in ODD_PATHS.items()
        if not ((getattr(param.type, "out", False) and what in NEW) or (name, what) == ("publish", "a folder"))
        if not (what == "a folder" and (name, param.name) in FOLDERS)
        if not (param.name == "key_file" and what in KEYS)
        if not (param.name == "access_log" and what in LOGS | NEW)
    ]
    calls += [  # before `zoo run` writes a picture into one of them
        Call(["compare", "./studio", "./studio", "--image", value], f"--image is {what}")
        for what, value in ODD_PATHS.items()
    ]
    calls += [
        Call([*words, option, value], f"{option} is {what}", option == "--out" and what in WRITTEN)
        for words, option, path in runs()
        if path
        for what, value in ODD_PATHS.items()
        if option != "--registry"
    ]
    calls += [Call(["run", value], f"model is {what}") for what, value in ODD_PATHS.items()]
    calls += [Call(["compare", "./studio", value], f"a model is {what}") for what, value in ODD_PATHS.items()]
    assert len(calls) > 400
    check(place, calls)


def test_what_is_in_folders(place):
    """A folder whose file is a pipe, a loop or a web page."""
    calls = [Call(_given(command, name.split(), param, f"./{folder}/"), f"{param.name} is a folder, {folder}")
             for name, command, param in parameters("path") if (name, param.name) not in FOLDERS
             for folder in ("piped", "looped", "html")]  # fmt: skip
    check(place, [*calls, *(Call(["run", f"./{folder}"], folder) for folder in ("piped", "looped", "html"))])


def test_urls(place):
    calls = [Call(_given(command, name.split(), param, url), f"{param.name} is a URL")
             for name, command, param in parameters("url") for url in URLS]  # fmt: skip
    calls += [Call(["run", "nothing", "--registry", url], "run") for url in URLS]
    check(place, calls)


def test_secrets_in_any_argument(place):
    """A URL in the place of a name, e.g. in front of the name that it should get."""
    url = "http://user:s3cret@127.0.0.1:9/x?token=s3cret"
    calls = [Call(_given(command, name.split(), param, url), f"{param.name} is a URL")
             for name, command in leaves().items() if name not in ("run", "list")
             for param in command.params if isinstance(param, click.Argument)]  # fmt: skip
    calls += [Call(["run", *words], "run") for words in ([url], ["./studio", url], ["./studio", "encode", url])]
    calls += [Call(_given(command, name.split(), param, url), f"{param.name} is a URL")
              for name, command in leaves().items() if name != "list" for param in command.params
              if isinstance(param.type, click.Choice) or param.name in ("task", "target", "label", "name")
              if not isinstance(param, click.Argument)]  # fmt: skip
    assert len(calls) > 40
    check(place, calls)


def test_numbers(place):
    calls = [Call(_given(command, name.split(), param, value), f"{param.name} is {value[:9]}")
             for name, command, param in parameters("number") for value in NUMBERS]  # fmt: skip
    calls += [Call([*words, f"{option}={value}"], f"{option} is {value[:9]}")
              for words, option, path in runs() if not path for value in NUMBERS]  # fmt: skip
    calls += [Call(["run", "./studio", "generate", "-n", value, "--out", "new.png"], "-n") for value in NUMBERS]
    odd_lists = [
        *(f"1,{value}" for value in NUMBERS),
        *(f"0..{value}" for value in NUMBERS),
        "..",
        ",",
        "1..2..3",
        "5..1",
    ]
    calls += [Call(["run", "./studio", "generate", f"{option}={value}"], f"{option} is {value[:9]}")
              for option in ("--seed", "--label", "--guidance") for value in odd_lists]  # fmt: skip
    calls += [Call([command, *words, "--set", f"steps={value}"], "--set") for value in NUMBERS
              for command, *words in (("compare", "./studio", "./studio", "--task", "generate"),
                                      ("animate", "ddpm-fashion"))]  # fmt: skip
    calls += [
        Call(["eval", "ddpm-fashion", "--data", "data.npz", "--set", f"steps={value}"], "--set") for value in NUMBERS
    ]
    check(place, calls)


def test_files(place):
    calls = [Call(_given(command, name.split(), param, file), f"{param.name} is {file}")
             for name, command, param in parameters("path")
             if param.name in READ for file in ODD_FILES]  # fmt: skip
    calls += [Call([*words, option, file], f"{option} is {file}")
              for words, option, path in runs() if path and option != "--registry"
              for file in ODD_FILES if file not in GOOD_PICTURES]  # fmt: skip
    check(place, calls)


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_closed_streams(place, stream):
    calls = []
    for name, command in leaves().items():
        words = name.split()
        calls.append(Call([*words, "--help"], f"{stream} is closed", True, [stream]))
        missing = [] if name == "run" else _given(command, words, click.Option(["--none"]), "")
        if name not in SLOW_IF_RIGHT and name not in WRITES:
            calls.append(Call(missing, f"{stream} is closed", True, [stream]))
        calls.append(Call([*words, "--no-such-option"], f"{stream} is closed", False, [stream]))
    for out in ("-", "/dev/null"):
        calls.append(
            Call(
                ["run", "./studio", "generate", "--seed", "1", "--out", out],
                "run",
                stream != "stdout" or out != "-",
                [stream],
            )
        )
    calls.append(Call(["run", "./studio", "encode", "--image", "-", "--out", "/dev/null"], "run", False, [stream]))
    calls.append(Call(["run", "./studio", "classify", "--example"], "run", True, [stream]))
    check(place, calls)
