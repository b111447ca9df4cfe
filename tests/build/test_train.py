"""The training loop: resumed runs are the same runs, processes add up, what is logged, what stops it."""

import json
import math
import os
import signal
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from zoo_judge import plugin as judge
from zoo_vqvae import plugin as vqvae

from tests.trainers import Loaded, batch_of, drawings, generator, run_of, trainer_of
from zoo.build import checkpoint as checkpoints
from zoo.build.checkpoint import CHECKPOINT, Checkpoint
from zoo.build.log import LOG
from zoo.build.train import Interrupted, Processes, Progress, Run, load_weights, restore, train
from zoo.errors import InvalidFileError, StoreError, UsageError
from zoo.formats.manifest import Training

DATA = drawings(40)
PLUGINS = {"vqvae": vqvae, "judge": judge}


def run(family: str = "vqvae", **settings) -> Run:
    return run_of(PLUGINS[family], family, {"num_classes": 2} if family == "judge" else None, **settings)


def trained(folder: Path, a_run: Run, **options):
    return train(Loaded(PLUGINS[a_run.family]), a_run, DATA, folder, **options)


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def stop_after(step: int):
    """An `on_step` that presses Ctrl-C."""

    def on_step(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return on_step


# --- The same run, whole or in parts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["vqvae", "judge"])
def test_a_run_stopped_and_resumed_is_the_uninterrupted_one_to_the_bit(tmp_path, family):
    whole = trained(tmp_path / "whole", run(family))
    with pytest.raises(Interrupted, match="stopped after step .* of 20; continue with the same command and --resume"):
        trained(tmp_path / "parts", run(family), on_step=stop_after(9))
    assert checkpoints.load(tmp_path / "parts").step in (9, 10)
    parts = trained(tmp_path / "parts", run(family), resume=True)
    assert same_weights(whole.module, parts.module)
    one, other = logged(tmp_path / "whole"), logged(tmp_path / "parts")
    assert [line for line in other if line["step"] % 10 == 0] == one
    assert replace_seconds(parts.record) == replace_seconds(whole.record)


def replace_seconds(record: Training) -> Training:
    return msgspec.structs.replace(record, seconds=0.0)


def test_a_run_killed_between_checkpoints_goes_on_from_the_last(tmp_path):
    whole = trained(tmp_path / "whole", run())

    class Killed(BaseException):
        pass

    def kill(progress):
        if progress.step == 13:
            raise Killed

    with pytest.raises(Killed):
        trained(tmp_path / "parts", run(), checkpoint_every=4, on_step=kill)
    assert checkpoints.load(tmp_path / "parts").step == 12
    with (tmp_path / "parts" / LOG).open("a") as log:
        log.write('{"step": 13, "reconstr')  # torn
    parts = trained(tmp_path / "parts", run(), checkpoint_every=4, resume=True)
    assert same_weights(whole.module, parts.module)
    assert [line["step"] for line in logged(tmp_path / "parts")] == [4, 8, 10, 12, 16, 20]


def test_a_finished_run_resumes_to_its_end_at_once(tmp_path):
    first = trained(tmp_path, run())
    steps = []
    again = trained(tmp_path, run(), resume=True, on_step=lambda progress: steps.append(progress.step))
    assert steps == [] and same_weights(first.module, again.module)


def test_seeds_differ_and_repeat(tmp_path):
    modules = [trained(tmp_path / str(i), run(seed=seed)).module for i, seed in enumerate((1, 1, 2))]
    assert same_weights(modules[0], modules[1]) and not same_weights(modules[0], modules[2])


def test_a_checkpoint_is_restored_as_the_module_it_would_publish(tmp_path):
    finished = trained(tmp_path, run())
    saved = checkpoints.load(tmp_path)
    assert Run.of(saved) == run()
    assert same_weights(restore(Loaded(vqvae), run(), saved), finished.module)


# --- Records, logs ----------------------------------------------------------------------------------------------------


def test_the_record_counts_what_was_seen(tmp_path):
    record = trained(tmp_path, replace(run(seed=3), command="zoo train …", data="drawings train")).record
    assert (record.steps, record.images_seen, record.seed) == (20, 160, 3)
    assert record.command == "zoo train …" and record.data == "drawings train" and record.seconds > 0
    assert f"torch {torch.__version__}" in record.environment


def test_a_record_keeps_no_secrets():
    secret = replace(run(), command="zoo train judge --license-note 'see https://me:pw@host/x?token=1'")
    assert secret.record(1, 1.0).command == "zoo train judge --license-note 'see https://***@host/x?***'"


def test_the_log_has_the_losses_of_every_tenth_step(tmp_path):
    seen = {}
    trained(tmp_path, run(), on_step=lambda p: seen.update({p.step: dict(p.losses)} if p.losses else {}))
    assert logged(tmp_path) == [{"step": step, **losses} for step, losses in seen.items()]
    assert list(seen) == [10, 20] and set(seen[10]) == {"loss", "reconstruction", "commitment", "perplexity"}


def test_tensorboard_events_when_asked(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(Interrupted):  # written out at a stop, too
        trained(tmp_path / "run", run(), tensorboard=tmp_path / "events", on_step=stop_after(11))
    trained(tmp_path / "run", run(), tensorboard=tmp_path / "events", resume=True)
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    steps = {e.step: e.value for e in events.Scalars("reconstruction")}
    assert steps == pytest.approx({line["step"]: line["reconstruction"] for line in logged(tmp_path / "run")})
    assert not (tmp_path / "run" / "events").exists()


# --- What stops a run -------------------------------------------------------------------------------------------------


def test_a_second_ctrl_c_interrupts_at_once_and_handlers_come_back(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def on_step(progress):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second one is an interrupt")

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, run(), on_step=on_step)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


class Diverging(Loaded):
    """The family vqvae, whose third step gives a loss that is no number."""

    def call(self, hook, request):
        answer = super().call(hook, request)
        if hook == "build_trainer":
            step = answer.step
            answer.step = lambda batch, n, random: (
                step(batch, n, random) | ({"reconstruction": math.nan} if n > 1 else {})
            )
        return answer


@pytest.mark.parametrize("checkpoint_every", [3, 5, 500])
def test_a_loss_that_is_no_number_stops_with_one_line_before_it_is_saved(tmp_path, checkpoint_every):
    step = min(checkpoint_every, 10)
    with pytest.raises(UsageError) as error:
        train(Diverging(vqvae), run(), DATA, tmp_path, checkpoint_every=checkpoint_every)
    assert str(error.value) == f"the loss 'reconstruction' is nan at step {step}; try a lower --learning-rate"
    assert not (tmp_path / CHECKPOINT).exists()


@pytest.mark.parametrize(
    "settings, line",
    [
        ({"steps": "many"}, "vqvae training: steps is 'many'; it must be a whole number from 1 to 1000000000"),
        ({"batch_size": 41}, "batch size 41; it must be between 1 and the number of pictures, 40"),
        ({"warmup": 3}, "vqvae training: there is no 'warmup'; did you mean 'warmup_steps'?"),
    ],
)
def test_settings_that_cannot_be_are_one_line(tmp_path, settings, line):
    with pytest.raises(UsageError) as error:
        trained(tmp_path, run(**settings))
    assert str(error.value) == line
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write .*file"):
        trained(tmp_path / "file" / "run", run())


def test_a_checkpoint_of_another_zoo_is_refused():
    saved = Checkpoint(run=asdict(run()) | {"settings": 5}, step=1, seconds=0.0, state={})
    with pytest.raises(InvalidFileError, match=r"the checkpoint was written by another version of zoo: .*settings"):
        Run.of(saved)


# --- Weights to start from --------------------------------------------------------------------------------------------


def test_training_goes_on_from_weights(tmp_path):
    first = trained(tmp_path / "1", run())
    weights = first.module.state_dict()
    second = trained(tmp_path / "2", run(steps=1, learning_rate=1e-9), weights=weights)
    for name, value in second.module.state_dict().items():
        if not name.startswith("codec.quantizer"):  # which learns by averages, whatever the rate
            torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-6)


def test_weights_of_another_config_are_named_one_by_one():
    module = torch.nn.Linear(2, 3)
    weights = {"weight": torch.zeros(3, 4), "scale": torch.zeros(1)}
    with pytest.raises(InvalidFileError) as error:
        load_weights(module, weights)
    assert str(error.value) == (
        "these weights belong to another config: bias is missing; scale is unexpected; weight is (3, 4), not (3, 2)"
    )


# --- Several processes ------------------------------------------------------------------------------------------------


def test_the_batch_must_divide_among_the_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="batch size 8; it must be a multiple of the 3 processes"):
        trained(tmp_path, run())


def gradients_of(rank: int, number: int, folder: Path | None = None) -> dict[str, torch.Tensor]:
    """The gradients of a first step on this process's share of a batch of 8."""
    torch.set_num_threads(1)
    processes = Processes()
    grads = {}
    for family, settings in (("vqvae", {"clip_gradient": 1e9}), ("judge", {"shift": 0})):
        trainer = trainer_of(PLUGINS[family], run(family, **settings), processes.distribute)
        share = slice(rank * 8 // number, (rank + 1) * 8 // number)
        trainer.step(batch_of(DATA, share), 0, generator())
        grads |= {f"{family}.{name}": p.grad for name, p in trainer.module.named_parameters() if p.grad is not None}
    return grads


def worker(rank: int, folder: Path) -> None:
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank)}
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(minutes=5))
    torch.save(gradients_of(rank, 2), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_compute_the_gradient_of_one(tmp_path):
    mp.spawn(worker, (tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = gradients_of(0, 1)
    assert set(first) == set(second) == set(alone)
    for name, expected in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-6, msg=name)
