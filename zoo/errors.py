"""What goes wrong on purpose: one line for the user, one exit code a kind of failure.

A message says what is wrong, the value, and what to do. Anything that is not a `ZooError` is a bug and keeps its
traceback (exit code 1). docs/cli.md lists the exit codes; it is made from this file.
"""


class ZooError(Exception):
    """Base of every failure that zoo raises on purpose. Its text is one line, without a full stop at the end."""

    exit_code = 1
    meaning = "an unexpected error: a bug, please report it"


class UsageError(ZooError):
    """An option or value that cannot be right."""

    exit_code = 2
    meaning = "wrong usage: an unknown option, or a value out of its range"


class NotFoundError(ZooError):
    """A name, version, task, family or file that is not there."""

    exit_code = 3
    meaning = "not found: a model, version, task, family or file"


class InvalidFileError(ZooError):
    """A file that is not what it should be: registry, manifest, picture, tokens, weights, graph."""

    exit_code = 4
    meaning = "an invalid file: registry, manifest, picture, tokens, weights or graph"


class IntegrityError(ZooError):
    """Bytes that do not match their digest, or outputs that do not match the golden ones."""

    exit_code = 5
    meaning = "integrity: bytes or outputs that are not what their digest or golden case says"


class TransportError(ZooError):
    """A URL that could not be read to the end."""

    exit_code = 6
    meaning = "transport: a URL could not be read"


class StoreError(ZooError):
    """A local folder that cannot be read or written: full, read-only, not ours."""

    exit_code = 7
    meaning = "storage: the disk is full, or a folder cannot be written"


class DeviceError(ZooError):
    """The asked-for device does not run the model."""

    exit_code = 8
    meaning = "device: CUDA was asked for and did not run the model"


class PluginError(ZooError):
    """A plugin that is missing, set aside, or broke its contract."""

    exit_code = 9
    meaning = "plugin: missing, set aside, or it broke its contract"


class ExportError(ZooError):
    """A graph that could not be made, or does not give torch's numbers."""

    exit_code = 10
    meaning = "export: the graph could not be made or does not give the model's numbers"


def exit_codes() -> dict[int, str]:
    """Every documented exit code and its meaning, ascending."""
    kinds = [ZooError, *ZooError.__subclasses__()]
    table = {0: "success"} | {kind.exit_code: kind.meaning for kind in kinds}
    table |= {130: "interrupted (Ctrl-C)", 141: "the reader of the output went away (closed pipe)"}
    return dict(sorted(table.items()))
