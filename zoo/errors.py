"""Errors for users: one line each, and one exit code per kind of failure.

A message says what is wrong, the value, and what to do. Anything that is not a `ZooError` is a bug and keeps its
traceback (exit code 1). docs/cli.md lists the exit codes; it is generated from this file.
"""


class ZooError(Exception):
    """Base of all errors that zoo raises on purpose. Its text is one line, without a full stop at the end."""

    exit_code = 1
    meaning = "an unexpected error: a bug, please report it; from `zoo diff`: the models differ"


class UsageError(ZooError):
    """An option or value that is wrong."""

    exit_code = 2
    meaning = "wrong usage: an unknown option, or a value out of range"


class NotFoundError(ZooError):
    """A name, version, task, family or file that does not exist."""

    exit_code = 3
    meaning = "not found: a model, version, task, family or file"


class InvalidFileError(ZooError):
    """A file with invalid contents: registry, manifest, picture, tokens, weights, graph."""

    exit_code = 4
    meaning = "an invalid file: registry, manifest, picture, tokens, weights or graph"


class IntegrityError(ZooError):
    """Bytes that do not match their digest, or outputs that do not match the golden cases."""

    exit_code = 5
    meaning = "integrity: bytes do not match their digest, or outputs do not match their golden case"


class TransportError(ZooError):
    """A URL that could not be read to the end."""

    exit_code = 6
    meaning = "transport: a URL could not be read"


class StoreError(ZooError):
    """A local folder that cannot be read or written: full, read-only, or without permission."""

    exit_code = 7
    meaning = "storage: the disk is full, or a folder cannot be written"


class DeviceError(ZooError):
    """The requested device does not run the model."""

    exit_code = 8
    meaning = "device: CUDA was requested but did not run the model"


class PluginError(ZooError):
    """A plugin that is missing, set aside, or breaks the contract; or an extra of zoo's that is not installed."""

    exit_code = 9
    meaning = "plugin: missing, set aside, or breaking the contract; or an extra that is not installed"


class ExportError(ZooError):
    """A graph that could not be exported, or does not give torch's numbers."""

    exit_code = 10
    meaning = "export: the graph could not be exported, or does not give the model's numbers"


def exit_codes() -> dict[int, str]:
    """All documented exit codes with their meanings, in ascending order."""
    kinds = [ZooError, *ZooError.__subclasses__()]
    table = {0: "success"} | {kind.exit_code: kind.meaning for kind in kinds}
    table |= {130: "interrupted (Ctrl-C)", 141: "the reader of the output closed the pipe"}
    return dict(sorted(table.items()))
