"""The process that makes shards, as `zoo.run.shards.pool` asks.

    python -m zoo.run.shards.worker LIFELINE

Lines of JSON: the job comes first, then shards; each is answered by lines with the number of inputs that are done, and
one with the shard or an error. LIFELINE is the descriptor of a pipe that ends when the parent does.
"""

from __future__ import annotations

import sys
import traceback
from typing import Any

import msgspec

from ...errors import ZooError
from ..worker import serve_parent
from .shard import Job, Maker, Shard


def main(lifeline: int | None) -> None:
    """Answers requests until the parent closes the pipe."""
    requests, replies = serve_parent(lifeline)

    def reply(value: dict[str, Any]) -> None:
        replies.write(msgspec.json.encode(value) + b"\n")

    maker: Maker | None = None
    for line in requests:
        try:
            if maker is None:
                maker = Maker(msgspec.json.decode(line, type=Job))
                reply({"ready": True})
            else:
                done = maker.make(msgspec.json.decode(line, type=Shard), lambda count: reply({"count": count}))
                reply({"done": done})
        except ZooError as e:
            reply({"error": type(e).__name__, "text": str(e)})
        except Exception:
            reply({"bug": traceback.format_exc()})


if __name__ == "__main__":
    main(None if sys.argv[1] == "-" else int(sys.argv[1]))
