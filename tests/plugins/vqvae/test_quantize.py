"""The vector quantiser: nearest codes, loss terms, gradients, moving averages, restarts, several processes."""

import math
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zoo_vqvae.quantize import (
    VectorQuantizer,
    codebook_loss,
    commitment_loss,
    ema_update,
    nearest_code,
    perplexity,
    straight_through,
)

# Whole numbers: every distance is exact in float32, so that a tie is a tie.
LEVELS = st.integers(-3, 3).map(float)


def arrays(*shape: int) -> st.SearchStrategy:
    return hnp.arrays(np.float32, shape, elements=LEVELS).map(torch.from_numpy)


def filled(quantizer: VectorQuantizer, codebook: torch.Tensor) -> VectorQuantizer:
    """With a codebook, and averages that agree with it, as if each code had been chosen ten times."""
    quantizer.codebook.data.copy_(codebook)
    if quantizer.learn == "ema":
        quantizer.cluster_size.fill_(10)
        quantizer.cluster_sum.copy_(10 * codebook)
    return quantizer


# --- Nearest code -----------------------------------------------------------------------------------------------------


@given(st.data())
def test_the_nearest_code_is_what_brute_force_finds_and_the_lowest_of_a_tie(data):
    codes, size = data.draw(st.integers(2, 9)), data.draw(st.integers(1, 4))
    z_e, e = data.draw(arrays(6, size)), data.draw(arrays(codes, size))
    expected = []
    for z in z_e.tolist():
        distances = [sum((a - b) ** 2 for a, b in zip(z, code, strict=True)) for code in e.tolist()]
        expected.append(distances.index(min(distances)))  # the first of equal ones
    assert nearest_code(z_e, e).tolist() == expected


def test_equal_codes_give_the_lowest_index():
    e = torch.tensor([[5.0, 5.0], [1.0, 2.0], [1.0, 2.0]])
    assert nearest_code(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), e).tolist() == [1, 1]


def test_indices_have_the_shape_of_the_latents():
    indices = nearest_code(torch.randn(2, 3, 5, 4), torch.randn(7, 4))
    assert indices.shape == (2, 3, 5) and indices.dtype == torch.int64


# --- Loss terms, each by hand -----------------------------------------------------------------------------------------

Z_E = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
Z_Q = torch.tensor([[0.0, 2.0], [3.0, 1.0]])
MEAN_SQUARE = (1 + 0 + 9 + 4) / 4


@pytest.mark.parametrize("term", [codebook_loss, commitment_loss])
def test_each_term_is_the_mean_squared_distance(term):
    assert term(Z_E, Z_Q).item() == MEAN_SQUARE


@pytest.mark.parametrize(
    "term, latents_move, codes_move", [(codebook_loss, False, True), (commitment_loss, True, False)]
)
def test_each_term_moves_one_side_only(term, latents_move, codes_move):
    z_e, z_q = Z_E.clone().requires_grad_(), Z_Q.clone().requires_grad_()
    term(z_e, z_q).backward()
    pull = 2 * (Z_E - Z_Q) / Z_E.numel()
    assert (z_e.grad is not None) == latents_move and (z_q.grad is not None) == codes_move
    torch.testing.assert_close(z_e.grad if latents_move else -z_q.grad, pull)


def test_straight_through_gives_the_codes_and_hands_the_gradient_to_the_latents():
    z_e, z_q = Z_E.clone().requires_grad_(), Z_Q.clone().requires_grad_()
    out = straight_through(z_e, z_q)
    assert out.tolist() == Z_Q.tolist()
    cotangent = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    out.backward(cotangent)
    assert torch.equal(z_e.grad, cotangent) and z_q.grad is None


@pytest.mark.parametrize("learn, terms", [("ema", {"commitment"}), ("loss", {"commitment", "codebook"})])
def test_the_quantiser_names_its_terms_in_training_and_none_in_evaluation(learn, terms):
    quantizer = VectorQuantizer(8, 2, learn=learn)
    assert set(quantizer(torch.randn(4, 2)).losses) == terms
    assert quantizer.eval()(torch.randn(4, 2)).losses == {}


def test_with_the_codebook_loss_only_chosen_codes_get_a_gradient():
    quantizer = filled(VectorQuantizer(3, 2, learn="loss"), torch.tensor([[0.0, 0.0], [4.0, 4.0], [9.0, 9.0]]))
    z_e = torch.tensor([[1.0, 0.0], [4.0, 5.0]], requires_grad=True)
    out = quantizer(z_e)
    (out.losses["codebook"] + out.z_q.sum()).backward()
    assert quantizer.codebook.grad.tolist() == [[-0.5, 0.0], [0.0, -0.5], [0.0, 0.0]]
    assert z_e.grad.tolist() == [[1.0, 1.0], [1.0, 1.0]]  # of the sum alone, straight through


def test_with_averages_the_codebook_is_no_parameter():
    quantizer = VectorQuantizer(8, 2)
    assert list(quantizer.parameters()) == []
    assert set(quantizer.state_dict()) == {"codebook", "cluster_size", "cluster_sum"}


def test_an_unknown_way_to_learn_is_refused():
    with pytest.raises(ValueError, match="'emma'; it must be 'ema' or 'loss'"):
        VectorQuantizer(8, 2, learn="emma")


# --- Moving averages --------------------------------------------------------------------------------------------------


def test_an_average_moves_by_one_minus_decay():
    average = torch.tensor([2.0, -4.0])
    ema_update(average, torch.tensor([4.0, 0.0]), 0.75)
    assert average.tolist() == [2.5, -3.0]


def averages_by_the_paper(state, latents, decay, epsilon):
    """Appendix A.1 in numpy, float64: N_i, m_i, e_i; the counts smoothed where they divide."""
    codebook, size, total = (state[name].astype(np.float64) for name in ("codebook", "cluster_size", "cluster_sum"))
    distances = ((latents[:, None].astype(np.float64) - codebook[None]) ** 2).sum(-1)
    chosen = distances.argmin(1)
    for i in range(len(codebook)):
        mine = latents[chosen == i]
        size[i] = decay * size[i] + (1 - decay) * len(mine)
        total[i] = decay * total[i] + (1 - decay) * mine.sum(0)
    n = size.sum()
    smoothed = (size + epsilon) / (n + len(size) * epsilon) * n
    return {"codebook": total / smoothed[:, None], "cluster_size": size, "cluster_sum": total}


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_four_steps_of_averages_are_the_papers_equations(decay):
    generator = torch.Generator().manual_seed(3)
    quantizer = VectorQuantizer(6, 3, decay=decay, restart_below=0)
    filled(quantizer, torch.randn(6, 3, generator=generator))
    for _ in range(4):
        expected = {name: value.numpy().copy() for name, value in quantizer.state_dict().items()}
        z_e = torch.randn(2, 4, 5, 3, generator=generator)
        expected = averages_by_the_paper(expected, z_e.numpy().reshape(-1, 3), decay, 1e-5)
        quantizer(z_e)
        for name, value in quantizer.state_dict().items():
            np.testing.assert_allclose(value.numpy(), expected[name], rtol=2e-5, atol=1e-6, err_msg=name)


def test_what_is_quantised_is_what_the_codebook_was_before_it_learned():
    quantizer = filled(VectorQuantizer(4, 2, decay=0.5), torch.randn(4, 2))
    before = quantizer.codebook.clone()
    z_e = torch.randn(20, 2)
    out = quantizer(z_e)
    torch.testing.assert_close(out.z_q, before[out.indices])
    assert not torch.equal(quantizer.codebook, before)


def test_evaluation_learns_nothing():
    quantizer = filled(VectorQuantizer(4, 2), torch.randn(4, 2)).eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(torch.randn(20, 2))
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


# --- Restarts ---------------------------------------------------------------------------------------------------------


def with_a_dead_code() -> VectorQuantizer:
    quantizer = filled(VectorQuantizer(3, 2), torch.tensor([[0.0, 0.0], [4.0, 4.0], [90.0, 90.0]]))
    quantizer.cluster_size[2], quantizer.cluster_sum[2] = 0.01, 0.01 * quantizer.codebook[2]
    return quantizer


LATENTS = torch.tensor([[0.1, 0.0], [4.0, 4.2], [3.9, 4.0], [-0.2, 0.1]])


def test_a_dead_code_becomes_a_latent_of_the_batch_and_its_averages_too():
    quantizer = with_a_dead_code()
    quantizer(LATENTS)
    code, size = quantizer.codebook[2], quantizer.cluster_size[2]
    assert code.tolist() in LATENTS.tolist()
    assert size > 0.05 * quantizer.cluster_size.mean()
    torch.testing.assert_close(quantizer.cluster_sum[2], size * code)


def test_the_next_update_does_not_undo_a_restart():
    # With the old averages the code would go back to where it was dead (the trap of espnet/espnet#6284).
    quantizer = with_a_dead_code()
    quantizer(LATENTS)
    fresh = quantizer.codebook[2].clone()
    far = torch.full((8, 2), 4.0) if (fresh - 4).norm() > 1 else torch.zeros(8, 2)  # nobody chooses it
    quantizer(far)
    assert (quantizer.codebook[2] - fresh).norm() < 1e-3


def test_codes_in_use_are_not_restarted():
    quantizer = with_a_dead_code()
    quantizer(LATENTS)
    assert (quantizer.codebook[:2] - torch.tensor([[0.0, 0.0], [4.0, 4.0]])).norm(dim=1).max() < 0.1


def test_a_generator_decides_which_latents_restart():
    codebooks = []
    for seed in (1, 1, 2, 3, 4, 5):
        quantizer = VectorQuantizer(64, 2)
        torch.manual_seed(seed * 100)  # the global generator must not matter
        with torch.random.fork_rng():
            quantizer.codebook.copy_(torch.linspace(50, 60, 128).reshape(64, 2))
        quantizer(torch.linspace(-1, 1, 200).reshape(100, 2), torch.Generator().manual_seed(seed))
        codebooks.append(quantizer.codebook)
    assert torch.equal(codebooks[0], codebooks[1])
    assert not all(torch.equal(codebooks[0], c) for c in codebooks[2:])


# --- Perplexity, and back from indices --------------------------------------------------------------------------------


def test_perplexity_is_the_number_of_codes_that_share_the_work():
    assert perplexity(torch.tensor([0, 7, 0, 0])).item() == 1
    assert perplexity(torch.full((16,), 3)).item() == pytest.approx(16)
    assert perplexity(torch.tensor([3, 1, 0])).item() == pytest.approx(
        math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    )


@settings(max_examples=30)
@given(st.data())
def test_rebuilding_from_indices_gives_the_quantised_latents(data):
    codes, size = data.draw(st.integers(2, 20)), data.draw(st.integers(1, 6))
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
    values = st.floats(-8, 8, width=32)
    z_e, codebook = (
        torch.from_numpy(data.draw(hnp.arrays(np.float32, s, elements=values))) for s in ((*shape, size), (codes, size))
    )
    quantizer = filled(VectorQuantizer(codes, size), codebook).eval()
    out = quantizer(z_e)
    # z_e + (z_q - z_e) rounds twice: a few units in the last place of the larger of the two.
    torch.testing.assert_close(quantizer.decode(out.indices), out.z_q, rtol=0, atol=5e-6)


# --- Several processes ------------------------------------------------------------------------------------------------


def batches(number: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return [torch.randn(12, 3, generator=generator) for _ in range(number)]


def learn(quantizer: VectorQuantizer, share: slice) -> VectorQuantizer:
    for batch in batches(3):
        quantizer(batch[share], torch.Generator().manual_seed(0))
    return quantizer


def fresh_quantizer(restart_below: float) -> VectorQuantizer:
    torch.manual_seed(5)
    return VectorQuantizer(16, 3, restart_below=restart_below)


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(minutes=5))
    share = slice(6 * rank, 6 * rank + 6)
    states = {below: learn(fresh_quantizer(below), share).state_dict() for below in (0.0, 0.05)}
    torch.save(states, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_hold_one_codebook_and_add_their_sums(tmp_path):
    mp.spawn(worker, (tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for below in (0.0, 0.05):  # without and with restarts: the processes agree to the bit
        assert all(torch.equal(first[below][name], second[below][name]) for name in first[below])
    alone = learn(fresh_quantizer(0.0), slice(None)).state_dict()
    for name, value in alone.items():
        torch.testing.assert_close(first[0.0][name], value, rtol=1e-5, atol=1e-6, msg=name)
