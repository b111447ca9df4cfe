"""Startup of `zoo --help` and `zoo list` with 50 plugins installed, compared with `python -c "import click"`.

Two of them also provide a registry and a command. Run: .venv/bin/python bench/startup.py [ROUNDS]. The rounds are
interleaved, so that a busy machine slows all of them equally; medians are compared. The processor time is shown too,
since it is more reliable on a busy machine. Goal: at most 3x, and under 0.3 s.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import environment

from tests.fake_plugins import install

ZOO = [str(Path(sys.executable).with_name("zoo"))]
COMMANDS = {
    "import click": [sys.executable, "-c", "import click"],
    "zoo --help": [*ZOO, "--help"],
    "zoo list": [*ZOO, "list"],
}
PLUGINS = 50
GOAL_RATIO, GOAL_SECONDS = 3, 0.3


def main(rounds: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        for n in range(PLUGINS):
            more = f"[zoo.registry]\nown{n} = zoo_plugin{n}\n[zoo.commands]\ncommand{n} = zoo_plugin{n}.x:command\n"
            install(site, f"plugin{n}", extra="" if n % 25 else more)
            (site / f"zoo_plugin{n}" / "registry.yaml").write_text("format: 1\nmodels: {}\n")
        (Path(folder) / "home").mkdir()  # a store, in which it may remember what it read
        env = environment(PYTHONPATH=str(site), ZOO_HOME=f"{folder}/home")
        seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
        processor: dict[str, list[float]] = {name: [] for name in COMMANDS}
        for round_ in range(rounds + 1):  # the first fills the caches and does not count
            for name, command in COMMANDS.items():
                start, busy = time.perf_counter(), _processor_seconds()
                subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
                if round_:
                    seconds[name].append(time.perf_counter() - start)
                    processor[name].append(_processor_seconds() - busy)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = medians["import click"]
    good = True
    for name, median in medians.items():
        good &= median <= GOAL_RATIO * base and median < GOAL_SECONDS
        busy = statistics.median(processor[name])
        print(f"{name:14} {median * 1000:6.0f} ms  {median / base:5.2f}x   processor {busy * 1000:4.0f} ms")
    print(f"goal: at most {GOAL_RATIO}x and under {GOAL_SECONDS} s: {'reached' if good else 'MISSED'}")
    return 0 if good else 1


def _processor_seconds() -> float:
    """The processor time of all processes that have ended so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 11))
