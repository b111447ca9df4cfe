"""What `zoo train` says: a summary before the first step, progress, and at the end what to do next."""

import json
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..text import human_bytes, safe_text
from .output import note, progress

if TYPE_CHECKING:
    from ..build.begin import Begun
    from ..build.forecast import Forecast
    from ..build.train import Progress, Run
    from ..formats.manifest import Manifest
    from ..hookspecs import Metric

FIRST_LINE = 2.0  # seconds
BETWEEN_LINES = 10.0  # seconds; in a long training, a twentieth of the time so far


class Report:
    """Tells a person on stderr, or with --json a program on stdout: one event a line."""

    def __init__(self, *, as_events: bool, silent: bool = False):
        self.as_events, self.silent = as_events, silent

    def event(self, kind: str, /, **values: Any) -> None:
        """One event, with --json; paths become text."""
        if self.as_events and not self.silent:
            click.echo(json.dumps({"event": kind, **values}, default=str))

    def line(self, text: str) -> None:
        """One line, without --json."""
        if not self.as_events and not self.silent:
            note(text)

    def summary(self, begun: "Begun", forecast: "Forecast", out: Path, folder: Path, done: int) -> None:
        """What will be trained, on what, and how long it will take."""
        from ..ports.kind import shape_text

        run, data, held_out = begun.run, begun.data, begun.held_out
        facts, s = data.facts, run.settings
        left = s["steps"] - done
        counts = Counter(data.labels.tolist())
        classes = {name: counts[number] for number, name in enumerate(data.classes)} if facts.classes else {}
        seconds = left * forecast.step_seconds
        precision = s.get("precision", "float32")
        changes = {change: number for change, number in data.changes.items() if number}
        self.event(
            "start",
            family=run.family,
            preset=begun.preset,
            config=run.config,
            settings=s,
            read=data.said,
            changes=changes,
            pictures=len(data),
            held_out=len(held_out) if held_out else 0,
            width=facts.width,
            height=facts.height,
            channels=facts.channels,
            classes=classes,
            parameters=forecast.parameters,
            flops_per_step=forecast.flops,
            memory_bytes=forecast.memory_bytes,
            device=forecast.device,
            precision=precision,
            steps=s["steps"],
            done=done,
            seconds=round(seconds, 1),
            bundle=out,
            folder=folder,
        )
        epochs = s["steps"] * s["batch_size"] / len(data)
        listed = ", ".join(f"{name} {number:,}" for name, number in list(classes.items())[:10])
        rows = {
            "model": f"{run.family}{f', preset {begun.preset}' if begun.preset else ''}:"
            f" {forecast.parameters:,} parameters, {forecast.flops / 1e9:,.3g} GFLOP a step",
            "data": data.said,
            "changed": "; ".join(f"{number:,} {change}" for change, number in changes.items()),
            "pictures": f"{len(data):,} of {facts.width}x{facts.height}, {'grey' if facts.channels == 1 else 'RGB'}",
            "arrays": ", ".join(f"{name} {shape_text(array.shape[1:])}" for name, array in data.arrays.items()),
            "classes": listed + (", …" if len(classes) > 10 else "") if classes else "none",
            "split": f"{data.split}; {len(held_out):,} held out to measure on" if held_out else f"{data.split}",
            "steps": f"{s['steps']:,} with {s['batch_size']:,} pictures: {epochs:,.3g} times the data"
            + (f"; {done:,} are done" if done else ""),
            "device": f"{forecast.device}, {precision}",
            "memory": f"about {human_bytes(forecast.memory_bytes)}"
            + (f" of {human_bytes(forecast.free_bytes)} that are free" if forecast.free_bytes else ""),
            "time": f"about {duration(seconds)}, {forecast.step_seconds:.2g} s a step",
            "writes": f"{out} (the bundle), {folder} (checkpoint, log, sheets)",
        }
        for name, text in rows.items():
            if text:
                self.line(f"{name:9} {safe_text(text)}")

    def end(self, begun: "Begun", manifest: "Manifest", out: Path, folder: Path, held_out: dict[str, float]) -> None:
        """Figures on held-out pictures, the sheet, the loss curve, and what to do next."""
        from ..build.card import command_line
        from ..build.watch import draw_curve
        from ..store.locate import folder_reference

        curve = draw_curve(folder)
        sheet = max(folder.glob("sheet-*.png"), default=None)
        figures = {metric.name: metric.value for metric in measured(begun, manifest, out)} or held_out
        next_commands = [
            command_line(manifest, folder_reference(out)),
            f"zoo info {shlex.quote(folder_reference(out))}",
            f"zoo publish {shlex.quote(str(out))} --to my-registry/",
        ]
        self.event(
            "done", bundle=out, name=manifest.name, version=manifest.version, tasks=[*manifest.tasks],
            steps=manifest.training.steps, seconds=manifest.training.seconds, held_out=figures, sheet=sheet,
            curve=curve, next=next_commands,
        )  # fmt: skip
        if figures and begun.held_out:
            listed = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            self.line(f"on {len(begun.held_out):,} held-out pictures: {listed}")
        if sheet or curve:
            self.line(f"see {' and '.join(str(path) for path in (sheet, curve) if path)}")
        self.line("next:")
        for command in next_commands:
            self.line(f"  {command}")


def measured(begun: "Begun", manifest: "Manifest", out: Path) -> list["Metric"]:
    """The metrics of the bundle on the held-out pictures; none for models that draw, which takes long (`zoo eval`)."""
    from ..build.measure import GENERATE, measure_held_out

    if begun.held_out is None or GENERATE in manifest.tasks:
        return []
    return measure_held_out(out, begun.held_out)


class Bar:
    """Progress: a live line on a terminal, elsewhere a line every so often, or events."""

    def __init__(self, report: Report, run: "Run", done: int):
        self.report, self.steps, self.batch_size = report, run.settings["steps"], run.settings["batch_size"]
        self.began = self.said = time.monotonic()
        self.start, self.held_out, self.losses, self.own = done, {}, {}, {}
        self.looks: list[float] = []  # the seconds that each look took
        self.bar = progress(self.steps, f"training {run.name}", unit="step", silent=report.silent or report.as_events)
        self.bar.update(done)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def __call__(self, now: "Progress") -> None:
        from ..build.forecast import used_memory

        if now.losses:
            self.losses = dict(now.losses)
        if now.look:
            self.held_out = dict(now.look.held_out) or self.held_out
            self.looks.append(now.look.seconds)
            self.own = dict(now.look.own) or self.own
        elapsed = time.monotonic() - self.began
        pace = (now.step - self.start) / max(elapsed - sum(self.looks), 1e-9)
        left = self._left(now.step, pace)
        numbers = self._numbers(left, pace, used_memory())
        self.bar.update(now.step - self.bar.n)
        if now.losses:
            self.bar.set_postfix_str(numbers, refresh=False)
            self.report.event(
                "step",
                step=now.step,
                steps=self.steps,
                losses=self.losses,
                pictures_per_second=round(pace * self.batch_size, 2),
                eta_seconds=round(left, 1),
                memory_bytes=used_memory(),
            )
        if now.look:
            self.report.event("look", step=now.step, held_out=self.held_out, own=self.own, sheet=now.look.sheet)
        if self.bar.disable and self.losses and self._is_time(now, elapsed):
            self.said = time.monotonic()
            self.report.line(f"step {now.step:,} of {self.steps:,}: {numbers}")

    def preparing(self, iterator: Iterator[Any], length: int) -> Iterator[Any]:
        """Gives the items, and shows how far a trainer is with what it makes before the first step."""
        began = said = time.monotonic()
        silent = self.report.silent or self.report.as_events
        with progress(length, "preparing", unit="part", silent=silent) as bar:
            for number, item in enumerate(iterator):
                yield item
                bar.update(1)
                done, now = number + 1, time.monotonic()
                self.report.event("preparing", done=done, of=length)
                if bar.disable and (done == length or now - said >= BETWEEN_LINES):
                    said = now
                    left = duration((now - began) / done * (length - done))
                    self.report.line(f"prepared {done:,} of {length:,}, {left} left")
        self.began = self.said = time.monotonic()

    def _is_time(self, now: "Progress", elapsed: float) -> bool:
        first = self.said == self.began
        waited = time.monotonic() - self.said
        return now.step == self.steps or waited >= (FIRST_LINE if first else max(BETWEEN_LINES, elapsed / 20))

    def _left(self, step: int, pace: float) -> float:
        """Seconds until the end. Looks, which are frequent only at the start, are counted by themselves."""
        from ..build.watch import looks_after

        a_look = sum(self.looks) / len(self.looks) if self.looks else 0.0
        return (self.steps - step) / pace + looks_after(step, self.steps) * a_look

    def _numbers(self, left: float, pace: float, memory: int | None) -> str:
        shown = [f"{name} {value:.4g}" for name, value in list(self.losses.items())[:3]]
        shown += [f"held out {name} {value:.4g}" for name, value in list(self.held_out.items())[:1]]
        shown += [f"{name} {value:.4g}" for name, value in list(self.own.items())[:2]]
        if self.bar.disable:  # else the bar has it
            shown += [f"{duration(left)} left"]
        shown += [f"{pace * self.batch_size:,.3g} pictures/s"] + ([human_bytes(memory)] if memory else [])
        return ", ".join(shown)


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def seconds_of(text: str) -> float:
    """Seconds of `90`, `90s`, `30m`, `1.5h`."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    try:
        seconds = float(number) * unit
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e9:
        raise click.BadParameter(f"'{safe_text(text)}' is not a time: give 90s, 30m or 1.5h")
    return seconds
