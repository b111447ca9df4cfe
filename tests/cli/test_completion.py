"""What the Tab key completes: in bash itself, and as zsh and fish ask for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_tasks import studio

from .commands import zoo

ZOO = Path(sys.executable).with_name("zoo")

PRESS_TAB = """
source <(zoo completion bash)
COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_zoo_completion zoo
printf '%s\\n' "${COMPREPLY[@]}"
"""


def in_bash(*words: str) -> list[str]:
    """What bash puts in the place of the last word."""
    environment = os.environ | {"PATH": f"{ZOO.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", PRESS_TAB, "bash", *words], capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    return f"./{studio(tmp_path / 'studio').name}"


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["zoo", "comp"], ["compare", "completion"]),
        (["zoo", "run", "vqvae-f"], ["vqvae-fashion"]),
        (["zoo", "info", "vqvae-f"], ["vqvae-fashion"]),
        (["zoo", "run", "vqvae-fashion", ":", ""], ["1", "2", "3"]),  # as bash splits a word at its colon
        (["zoo", "run", "vqvae-fashion", ":", "2", "ge"], ["generate"]),
        (["zoo", "run", "ddpm-fashion", "generate", "--gui"], ["--guidance"]),
        (["zoo", "run", "ddpm-fashion", "generate", "--label", "Ank"], [r"Ankle\ boot"]),
        (["zoo", "run", "ddpm-fashion", "generate", "--label", "Bag,Sn"], ["Bag,Sneaker"]),
        (["zoo", "run", "ddpm-fashion", "--device", "c"], ["cpu", "cuda"]),
        (["zoo", "run", "no-such-model", "ge"], []),
    ],
    ids=lambda value: " ".join(value),
)
def test_bash_completes(words: list[str], completed: list[str]):
    assert sorted(in_bash(*words)) == (completed or [""])


FILES = ["a picture.png", "B.JPG", "codes.safetensors", "many.npz", "notes.txt", ".hidden.png", "in/x.webp", "in/y.md"]


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["vqvae-fashion", "reconstruct", ""], ["B.JPG", r"a\ picture.png", "in/", "many.npz"]),
        (["vqvae-fashion", "reconstruct", "--image", "a"], [r"a\ picture.png"]),
        (["vqvae-fashion", "reconstruct", "in/"], ["in/x.webp"]),
        (["vqvae-fashion", "reconstruct", ".h"], [".hidden.png"]),
        (["ddpm-fashion", "inpaint", "--mask", ""], ["B.JPG", r"a\ picture.png", "in/"]),
        (["vqvae-fashion", "decode", ""], ["codes.safetensors", "in/"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_files_are_completed_by_kind(tmp_path: Path, monkeypatch, words: list[str], completed: list[str]):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in FILES:
        (tmp_path / name).touch()
    assert in_bash("zoo", "run", *words) == completed


@pytest.mark.parametrize(("shell", "said"), [("bash", "plain,in/"), ("fish", "plain,in/"), ("zsh", "folder")])
def test_what_a_shell_is_told_about_files(tmp_path: Path, shell: str, said: str):
    """Where nothing fits, the shell looks for files itself."""
    (tmp_path / "in").mkdir()
    current = {"bash": "4", "zsh": "4", "fish": ""}[shell]
    for folder, answer in ((tmp_path, said), (tmp_path / "in", "file")):
        asked = {
            "COMP_WORDS": "zoo run vqvae-fashion reconstruct",
            "COMP_CWORD": current,
            "_ZOO_COMPLETE": f"{shell}_complete",
        }
        done = subprocess.run([ZOO], capture_output=True, text=True, env=os.environ | asked, cwd=folder)
        assert done.stderr == "" and done.stdout.split("\n")[0].rstrip(",") == answer


SLOW_TO_IMPORT = {"numpy", "PIL", "onnxruntime", "importlib.metadata", "email.message", "socket", "subprocess"}
"""With none of these, a completion takes 0.13 s of processor time; with `importlib.metadata`, which reads what is
installed, 0.15."""


@pytest.mark.parametrize(
    ("words", "current"),
    [("zoo run vqvae-fashion reconstruct --", "4"), ("zoo run ddpm-fashion generate --label", "5")],
)
def test_completing_imports_little(words: str, current: str):
    asked = {"COMP_WORDS": words, "COMP_CWORD": current, "_ZOO_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", ZOO], capture_output=True, text=True, env=os.environ | asked
    )
    assert "plain," in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "zoo.cli.completion" in imported and not imported & SLOW_TO_IMPORT


def test_a_bundle_in_a_folder_is_completed_too(bundle: str):
    assert in_bash("zoo", "run", bundle, "recon") == ["reconstruct"]
    assert in_bash("zoo", "run", bundle, "generate", "--label", "Sn") == ["Sneaker"]


@pytest.mark.parametrize(("shell", "current"), [("zsh", "3"), ("fish", "ge")])
def test_zsh_and_fish_get_the_same_words(shell: str, current: str):
    asked = {"_ZOO_COMPLETE": f"{shell}_complete", "COMP_WORDS": "zoo run vqvae-fashion ge", "COMP_CWORD": current}
    done = subprocess.run([ZOO], capture_output=True, text=True, env=os.environ | asked)
    words = [word.partition("\t")[0].removeprefix("plain,") for word in done.stdout.splitlines()]
    assert "generate" in words and "reconstruct" not in words and done.stderr == ""


def test_the_start_file_is_replaced_whole_and_a_link_stays_one(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    kept = tmp_path / "dotfiles" / "bashrc"
    kept.parent.mkdir()
    kept.write_bytes(b"export A=\xff\n")
    kept.chmod(0o640)
    (tmp_path / ".bashrc").symlink_to(kept)
    before, synced = kept.read_bytes(), os.fsync

    def full(fd: int) -> None:
        if kept.parent.name in str(Path(f"/proc/self/fd/{fd}").readlink()):
            raise OSError(28, "No space left on device")
        synced(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        outcome = zoo("completion", "install", "bash")
        assert outcome.code != 0 and "No space left on device" in outcome.err and kept.read_bytes() == before
        assert list(kept.parent.iterdir()) == [kept]
    assert zoo("completion", "install", "bash").code == 0
    assert (tmp_path / ".bashrc").is_symlink() and kept.stat().st_mode & 0o777 == 0o640
    assert kept.read_bytes().startswith(b"export A=\xff\n\nsource '")


def test_zsh_is_told_of_files_and_folders_apart_and_its_script_knows_both(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "a picture.png").touch()
    (tmp_path / "notes.txt").touch()
    asked = {"COMP_WORDS": "zoo run vqvae-fashion reconstruct", "COMP_CWORD": "4", "_ZOO_COMPLETE": "zsh_complete"}
    done = subprocess.run([ZOO], capture_output=True, text=True, env=os.environ | asked, cwd=tmp_path)
    assert done.stdout.split("\n") == ["path", "a picture.png", "_", "folder", "in", "_", ""]
    script = zoo("completion", "zsh").out
    for kind, call in (("path", 'compadd -U -f -- "$key"'), ("folder", 'compadd -U -f -q -S / -- "$key"')):
        assert f'"$type" == "{kind}" ]]; then\n            {call}\n' in script


def test_it_is_installed_once(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".bashrc").write_text("alias ll='ls -l'")
    monkeypatch.setenv("SHELL", "/bin/bash")
    for _ in range(2):
        outcome = zoo("completion", "install")
        assert outcome.code == 0, outcome.err
    script = Path(outcome.out.strip())
    assert "_zoo_completion" in script.read_text()
    assert (tmp_path / ".bashrc").read_text() == f"alias ll='ls -l'\nsource '{script}'\n"
    assert zoo("completion", "install", "fish").out.strip().endswith("fish/completions/zoo.fish")
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert "your shell is 'tcsh'; name one" in zoo("completion", "install").err
