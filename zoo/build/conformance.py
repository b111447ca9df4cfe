"""The conformance kit: checks that every plugin must pass, whoever wrote it.

`zoo plugin check` prints the outcomes as a table, `zoo.testing` turns them into tests. The checks of a family share one
`Subject`: the family's smallest preset with random weights, exported once. They are in checks_declared.py,
checks_exported.py and checks_trained.py.
"""

import re
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from ..errors import ZooError
from ..plugins import places
from ..plugins.finding import brief, for_author
from . import checks_declared as declared
from . import checks_exported as exported
from . import checks_trained as trained
from .subject import Finding, Subject, place_in

Verdict = Literal["pass", "fail", "blocked"]  # blocked: a check that it needs failed


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one check of a family."""

    family: str
    check: str
    verdict: Verdict
    why: str  # what was found wrong; for a pass, what was looked at
    where: str = ""  # file and line in the plugin's code
    read: str = ""  # section of the docs

    @property
    def line(self) -> str:
        """Why, where, and what to read."""
        told = [part for part in (self.where, self.read) if part and part not in self.why]
        return "; ".join([self.why, *told])


class Check(msgspec.Struct, frozen=True):
    """A check, and the checks that must pass before it."""

    name: str
    summary: str  # what is checked, as a statement that should be true
    run: Callable[[Subject], str]
    needs: tuple[str, ...] = ()


CHECKS = (
    Check("loads", "its module loads fast and without torch", declared.loads),
    Check("contract", "its contract version and hook signatures are right", declared.contract, ("loads",)),
    Check("family", "it describes itself, and names a licence", declared.family_card, ("contract",)),
    Check("presets", "its presets are valid configs, and their tasks fit a manifest", declared.presets, ("family",)),
    Check(
        "config errors",
        "a wrong config is refused in one line that names the field",
        declared.config_errors,
        ("presets",),
    ),
    Check("builds", "it builds, and its tasks contain the module's own tensors", exported.builds, ("presets",)),
    Check("exports", "every task exports", exported.exports, ("builds",)),
    Check("ports", "ports match the graphs' real inputs and outputs", exported.ports, ("exports",)),
    Check("parity", "new weights and inputs give torch's numbers within the tolerance", exported.parity, ("exports",)),
    Check("batches", "a picture does not depend on its batch", exported.batches, ("exports",)),
    Check("sizes", "dimensions with a name are dynamic", exported.sizes, ("exports",)),
    Check("training", "training steps lower the first loss on one batch", trained.training, ("builds",)),
    Check("resuming", "a resumed training gives the same weights", trained.resuming, ("training",)),
    Check(
        "seeds",
        "the same seed gives the same output, another seed a different one",
        exported.seeds,
        ("exports", "training"),
    ),
    Check("round trip", "save, load, save is byte-identical", exported.round_trip, ("exports",)),
    Check(
        "operators",
        "no contrib or random operators; opset and IR that targets support",
        exported.operators,
        ("exports",),
    ),
    Check("card", "the bundle has a card with the licence", exported.card, ("exports",)),
    Check("measure", "its metrics can be measured and written", trained.measure, ("exports",)),
    Check("importer", "foreign checkpoints are imported, or refused in one line", trained.importer, ("builds",)),
    Check("commands", "its commands can be imported, and show their help", declared.commands, ("loads",)),
    Check("registry", "the models in its registry have the files that it names", declared.registry, ("loads",)),
)

_SECTION = re.compile(r"(docs/[\w.-]+\.md(?:#\w+)?)")


class Examination:
    """The checks of a subject; each runs once, when its outcome is first requested."""

    def __init__(self, subject: Subject):
        self.subject = subject
        self._outcomes: dict[str, Outcome] = {}

    def outcome(self, name: str) -> Outcome:
        """The outcome of a check; checks that it needs run first."""
        if name not in self._outcomes:
            self._outcomes[name] = self._run(next(check for check in CHECKS if check.name == name))
        return self._outcomes[name]

    def _run(self, check: Check) -> Outcome:
        def outcome(verdict: Verdict, why: str, where: str = "", read: str = "") -> Outcome:
            family = self.subject.family
            return Outcome(family=family, check=check.name, verdict=verdict, why=why, where=where, read=read)

        for needed in check.needs:
            if self.outcome(needed).verdict != "pass":
                return outcome("blocked", f"'{needed}' has to pass first")
        try:
            return outcome("pass", check.run(self.subject))
        except Finding as finding:
            return outcome("fail", finding.why, finding.where or place_in(finding.why), finding.read)
        except ZooError as e:
            why = for_author(str(e))
            return outcome("fail", why, place_in(why), _section_in(why) or "docs/contract.md")
        except Exception as e:  # the plugin's own modules are called, which may raise anything
            where = places.of_error(e, self.subject.plugin.module)
            return outcome("fail", brief(e), where, "docs/contract.md#build_task")


def examine(subject: Subject) -> Iterator[Outcome]:
    """The outcome of every check of a family, in order."""
    examination = Examination(subject)
    for check in CHECKS:
        yield examination.outcome(check.name)


def _section_in(text: str) -> str:
    found = _SECTION.search(text)
    return found[1] if found else ""
