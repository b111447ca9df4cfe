"""Fixtures of all tests."""

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before torch is loaded, here and in child processes: on a busy machine its threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Child processes compile the modules of this checkout once, not at each start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Bundles of tests are strangers' models, each of which would start a worker process; tests of those set it themselves.
os.environ.setdefault("ZOO_ISOLATE", "0")

# With pytest-xdist each worker, and what it starts, has a core of its own: threads of one do not wait for the other's.
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

# A busy machine must not fail a property test.
settings.register_profile("zoo", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zoo")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with the most slow tests come first: with --no-loadscope-reorder, no worker ends with a long file."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])  # stable: a file's tests stay together, and in their order


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The reference data, which is no part of the repository: `../shared`, or where ZOO_SHARED points."""
    folder = Path(os.environ.get("ZOO_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "parity").is_dir():
        pytest.skip(f"no reference data at {folder} (ZOO_SHARED)")
    return folder
