"""Fixtures of all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before torch is loaded, here and in child processes: on a busy machine its threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Bundles of tests are strangers' models, each of which would start a worker process; tests of those set it themselves.
os.environ.setdefault("ZOO_ISOLATE", "0")

# With pytest-xdist each worker, and what it starts, has a core of its own: threads of one do not wait for the other's.
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

# A busy machine must not fail a property test.
settings.register_profile("zoo", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zoo")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The reference data, which is no part of the repository: `../shared`, or where ZOO_SHARED points."""
    folder = Path(os.environ.get("ZOO_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "parity").is_dir():
        pytest.skip(f"no reference data at {folder} (ZOO_SHARED)")
    return folder
