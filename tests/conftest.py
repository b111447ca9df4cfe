"""Fixtures of all tests."""

import gc
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

WORKERS_PER_CORE = 2
"""A quarter of a worker's time is spent waiting: for servers, timeouts and processes that end."""

# With pytest-xdist each worker, and what it starts, has one core: its threads do not wait for those of another's.
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

# A busy machine must not fail a property test.
settings.register_profile("zoo", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zoo")


LONGEST = (
    "contract/test_families.py",
    "plugins/diffusion/test_tasks.py",
    "plugins/vqgan/test_layouts_parity.py",
    "plugins/diffusion/test_layouts_bundles.py",
    "plugins/latent/test_export.py",
    "cli/test_mistakes.py",
    "test_docs.py",
    "plugins/latent/test_from_codec.py",
    "cli/test_build.py",
    "cli/test_network.py",
    "cli/test_prior.py",
    "store/test_power_loss.py",
    "plugins/targets/test_web.py",
    "store/test_processes.py",
    "plugins/vqgan/test_model.py",
    "store/test_races.py",
    "plugins/latent/test_pipelines_random.py",
    "cli/test_train_processes.py",
    "build/test_tokenizers.py",
    "test_scaffold.py",
    "cli/test_train.py",
)
"""The files that take about a minute of one core or more, longest first."""


def pytest_xdist_auto_num_workers() -> int:
    """Of `pytest -n auto`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return WORKERS_PER_CORE * cores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, then those with the most slow tests: with --no-loadscope-reorder, no worker ends
    with a long file."""
    folder = Path(__file__).parent
    rank = {folder / name: place for place, name in enumerate(LONGEST)}
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    # Stable: a file's tests stay together, and in their order.
    items.sort(key=lambda item: (rank.get(item.path, len(rank)), -slow[item.path]))


def pytest_collection_finish() -> None:
    """The half a million objects of torch and of the tests themselves stay: the collector need not walk them each time.

    Exporting a graph makes so many objects that Python's own thresholds start it every few milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The reference data, which is no part of the repository: `../shared`, or where ZOO_SHARED points."""
    folder = Path(os.environ.get("ZOO_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "parity").is_dir():
        pytest.skip(f"no reference data at {folder} (ZOO_SHARED)")
    return folder
