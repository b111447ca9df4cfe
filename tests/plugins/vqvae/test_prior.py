import math

import pytest
import torch
from zoo_vqvae.config import PriorConfig
from zoo_vqvae.prior import (
    MaskedDrawing,
    Prior,
    SequentialDrawing,
    guided,
    mask_at_random,
    masked_share,
    may_be_drawn,
    prior_loss,
)

K, L = 11, 6


def prior_of(kind: str = "masked", **fields: object) -> Prior:
    torch.manual_seed(0)
    defaults = {"kind": kind, "rows": 2, "columns": 3, "num_classes": 3, "width": 16, "depth": 2, "heads": 2}
    prior = Prior(PriorConfig(**defaults | fields), K).eval()
    for parameter in prior.parameters():  # 0.02 is too little for differences to show
        parameter.data.mul_(10)
    return prior


def numbers(value: float, n: int = 4) -> torch.Tensor:
    return torch.full((n,), value)


ALL = (numbers(0.0), numbers(1.0))  # top_k, top_p: draws from all codes
SEED = torch.arange(4)
LABEL = torch.tensor([-1, 0, 1, 2])


# --- The transformer --------------------------------------------------------------------------------------------------


def test_logits_with_and_without_cache_agree():
    prior = prior_of("autoregressive")
    tokens = torch.randint(K, (4, L), generator=torch.Generator().manual_seed(1))
    cache, one_by_one = prior.empty_cache(4), []
    for i in range(L):
        logits, cache = prior.next_logits(torch.tensor(i), tokens[:, max(i - 1, 0)], LABEL, cache)
        one_by_one.append(logits)
    torch.testing.assert_close(torch.stack(one_by_one, dim=1), prior(tokens, LABEL), rtol=1e-4, atol=1e-5)


def test_an_autoregressive_place_sees_only_what_is_before_it():
    prior = prior_of("autoregressive")
    tokens = torch.zeros(1, L, dtype=torch.int64)
    changed = tokens.clone()
    changed[0, 3] = 5
    before, after = prior(tokens, LABEL[:1]), prior(changed, LABEL[:1])
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_a_masked_place_sees_every_other_and_the_label():
    prior = prior_of()
    tokens = torch.full((1, L), K)
    changed = tokens.clone()
    changed[0, 5] = 2
    assert (prior(tokens, LABEL[:1]) - prior(changed, LABEL[:1])).abs().amin(dim=(0, 2)).min() > 0
    assert not torch.allclose(prior(tokens, LABEL[:1]), prior(tokens, LABEL[1:2]))


@pytest.mark.parametrize("kind", ["masked", "autoregressive"])
def test_llamas_blocks_know_rows_from_columns(kind):
    """Two tokens exchanged: without positions, no place after them could tell."""
    prior = prior_of(kind, block="llama")
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6]])
    for i, j in ((0, 1), (0, 3), (1, 3)):
        changed = tokens.clone()
        changed[0, [i, j]] = tokens[0, [j, i]]
        assert (prior(tokens, LABEL[1:2]) - prior(changed, LABEL[1:2]))[0, 4:].abs().max() > 1e-3
    assert not hasattr(prior.positions, "shape") and prior.blocks[0].mlp_out.in_features == 256


# --- Learning ---------------------------------------------------------------------------------------------------------


def test_masked_share_is_maskgits_cosine():
    torch.testing.assert_close(masked_share(torch.tensor([0.0, 2 / 3, 1.0])), torch.tensor([1.0, 0.5, 0.0]))


def test_masks_hide_what_they_say_and_at_least_one():
    tokens = torch.arange(600).reshape(100, 6)
    shown, hidden = mask_at_random(tokens, 999, torch.Generator().manual_seed(0))
    assert torch.equal(shown == 999, hidden) and torch.equal(shown[~hidden], tokens[~hidden])
    assert hidden.any(dim=1).all() and not hidden.all()


def test_the_masked_loss_is_that_of_the_masked_places():
    logits = torch.zeros(2, L, K)
    logits[..., 3] = math.log(10)  # p(3) = 10 / 20, p(others) = 1 / 20

    class Fixed(torch.nn.Module):
        num_codes = K

        def forward(self, tokens, label):
            return logits.masked_fill(tokens.unsqueeze(2) != K, 50.0)  # places that are shown count for nothing

    loss = prior_loss(Fixed(), "masked", K, torch.full((2, L), 3), LABEL[:2], torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))


@pytest.mark.parametrize("kind", ["masked", "autoregressive"])
def test_likelihood_of_validation_tokens_rises(kind):
    """Each place has its own three codes; a picture's tokens are all their first, all their second, or all their third.
    Validation pictures are drawn anew, with two tokens replaced by noise."""
    torch.manual_seed(0)
    prior = Prior(PriorConfig(kind=kind, rows=2, columns=3, width=32, depth=1, heads=2), K)
    codes = torch.randint(K, (3, L))

    def drawn(seed: int) -> torch.Tensor:
        g = torch.Generator().manual_seed(seed)
        tokens = codes[torch.randint(3, (64,), generator=g)]
        return torch.where(torch.rand(64, L, generator=g) < 0.1, torch.randint(K, (64, L), generator=g), tokens)

    none = torch.full((64,), -1)

    @torch.no_grad()
    def held_out() -> float:
        return float(prior_loss(prior, kind, K, drawn(1), none, torch.Generator().manual_seed(0)))

    before = held_out()
    optimizer = torch.optim.AdamW(prior.parameters(), lr=1e-2)
    for step in range(40):
        optimizer.zero_grad()
        prior_loss(prior, kind, K, drawn(2), none, torch.Generator().manual_seed(step)).backward()
        optimizer.step()
    assert held_out() < 0.7 * before


# --- Drawing ----------------------------------------------------------------------------------------------------------


def test_guidance_is_u_plus_g_times_c_minus_u():
    logits = torch.tensor([[1.0, 5.0], [3.0, 1.0]])  # c, then u
    for g, expected in ((0.0, [3.0, 1.0]), (1.0, [1.0, 5.0]), (2.0, [-1.0, 9.0])):
        assert guided(logits, torch.tensor([g])).tolist() == [expected]


@torch.no_grad()
def test_masked_drawing_never_changes_a_token_that_is_kept():
    prior = prior_of()
    given = torch.tensor([[K, 2, K, K, 7, K], [K, K, K, K, K, K], [1, 2, 3, 4, 5, 6], [K, 1, 1, 1, 1, 1]])
    drawing = MaskedDrawing(prior)
    number, tokens = (given == K).sum(dim=1), given
    for i in range(4):
        arguments = (torch.tensor(i), tokens, number, SEED, torch.tensor(4), numbers(1.0), LABEL, numbers(2.0))
        after, _ = drawing.step(*arguments)
        assert torch.equal(after[tokens != K], tokens[tokens != K]), f"step {i}"
        tokens = after
    assert (tokens < K).all()
    whole = drawing(given, SEED, torch.tensor(4), numbers(1.0), LABEL, numbers(2.0))
    assert torch.equal(whole, tokens), "the loop takes the same steps"


@torch.no_grad()
def test_as_many_stay_masked_as_the_cosine_says():
    drawing, tokens = MaskedDrawing(prior_of()), torch.full((4, L), K)
    left = []
    for i in range(3):
        number = numbers(L).long()
        tokens, _ = drawing.step(
            torch.tensor(i), tokens, number, SEED, torch.tensor(3), numbers(1.0), LABEL, numbers(1.0)
        )
        left.append(int((tokens == K).sum(dim=1).unique()))
    assert left == [5, 3, 0]  # floor of 6 cos(pi/6) = 5.2, of 6 cos(pi/3) = 3 exactly, and none


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, L])
def test_any_number_of_steps_draws_every_token(steps):
    tokens = torch.full((4, L), K)
    drawn = MaskedDrawing(prior_of())(tokens, SEED, torch.tensor(steps), numbers(1.0), LABEL, numbers(1.0))
    assert (drawn < K).all()


@torch.no_grad()
def test_a_seed_gives_its_picture_in_any_batch():
    masked, sequential = MaskedDrawing(prior_of()), SequentialDrawing(prior_of("autoregressive"))
    tokens = torch.full((4, L), K)
    together = masked(tokens, SEED, torch.tensor(3), numbers(1.0), LABEL, numbers(1.5))
    in_turn = sequential(SEED, numbers(1.0), *ALL, LABEL, numbers(1.5))
    for i in range(4):
        one = slice(i, i + 1)
        alone = masked(tokens[one], SEED[one], torch.tensor(3), numbers(1.0, 1), LABEL[one], numbers(1.5, 1))
        assert torch.equal(alone, together[one])
        alone = sequential(SEED[one], numbers(1.0, 1), numbers(0.0, 1), numbers(1.0, 1), LABEL[one], numbers(1.5, 1))
        assert torch.equal(alone, in_turn[one])
    assert len(together.unique(dim=0)) > 1


@torch.no_grad()
def test_draws_follow_the_priors_probabilities():
    """10,000 first tokens of an autoregressive prior against softmax of its logits."""
    prior, n = prior_of("autoregressive"), 10_000
    label = torch.full((n,), 1)
    logits, _ = prior.next_logits(torch.tensor(0), label * 0, label, prior.empty_cache(n))
    drawing = SequentialDrawing(prior)
    seed = torch.arange(n)
    everything = (numbers(1.0, n), numbers(0.0, n), numbers(1.0, n))
    drawn, _, _ = drawing.step(torch.tensor(0), label * 0, prior.empty_cache(n), seed, *everything, label, None)
    share = torch.bincount(drawn, minlength=K) / n
    assert (share - logits[0].softmax(dim=0)).abs().max() < 4 * 0.5 / n**0.5


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1), (3, 1), (0, 0.6), (5, 0.6), (1, 1), (0, 0), (99, 0.999)])
def test_only_likely_codes_are_drawn(top_k, top_p):
    """Against the two rules, one after the other, code by code."""
    logits = (torch.randn(4, K, generator=torch.Generator().manual_seed(2)) * 2).sort(dim=1, descending=True).values
    kept, _ = may_be_drawn(logits, numbers(float(top_k)), numbers(float(top_p)))
    for row, found in zip(logits.double().tolist(), kept.tolist()):
        likely = row[: top_k or K]
        shares = [math.exp(x) / sum(map(math.exp, likely)) for x in likely]
        expected = [sum(shares[:i]) <= top_p for i in range(len(likely))]
        assert found == expected + [False] * (K - len(likely))
        assert found[0]


@torch.no_grad()
def test_drawing_stays_within_the_likeliest_codes():
    """Of a first token, drawn 2,000 times: exactly the three likeliest codes occur, in proportion."""
    prior, n = prior_of("autoregressive"), 2000
    label = torch.full((n,), 1)
    logits, _ = prior.next_logits(torch.tensor(0), label, label, prior.empty_cache(n))
    some = (numbers(1.0, n), numbers(3.0, n), numbers(1.0, n))
    drawing = SequentialDrawing(prior)
    drawn, _, _ = drawing.step(torch.tensor(0), label, prior.empty_cache(n), torch.arange(n), *some, label, None)
    best = logits[0].topk(3)
    assert set(drawn.tolist()) == set(best.indices.tolist())
    share = torch.stack([(drawn == code).float().mean() for code in best.indices])
    assert (share - best.values.softmax(dim=0)).abs().max() < 4 * 0.5 / n**0.5


@torch.no_grad()
def test_margins_see_the_edge_of_the_likeliest():
    """A code just outside, with more noise than the winner, or a winner just inside."""
    logits = torch.tensor([[3.0, 2.0, 1.99, 0.0]])
    kept, edge = may_be_drawn(logits, torch.tensor([2.0]), torch.tensor([1.0]))
    assert kept.tolist() == [[True, True, False, False]]
    torch.testing.assert_close(edge, torch.tensor([[1.01, 0.01, 0.01, 2.0]]))
    share = logits.softmax(dim=1)[0]
    kept, edge = may_be_drawn(logits, torch.tensor([0.0]), share[:1] + 1e-3)
    assert kept.tolist() == [[True, True, False, False]]
    torch.testing.assert_close(edge[0, 1], torch.tensor(1e-3), rtol=1e-3, atol=1e-6)
    assert may_be_drawn(logits, torch.tensor([0.0]), torch.tensor([1.0]))[1].isinf().all()


@torch.no_grad()
def test_a_low_temperature_takes_the_likeliest():
    prior = prior_of("autoregressive")
    drawn = SequentialDrawing(prior)(SEED, numbers(1e-4), *ALL, LABEL, numbers(1.0))
    first, _ = prior.next_logits(torch.tensor(0), SEED, LABEL, prior.empty_cache(4))
    assert torch.equal(drawn[:, 0], first.argmax(dim=1))


@torch.no_grad()
def test_margins_say_how_near_another_picture_was():
    """Half of the margin, moved between the best code and the next, may flip a token; a tenth of it may not."""
    drawing = SequentialDrawing(prior_of("autoregressive"))
    margins = drawing.margins(SEED, numbers(1.0), *ALL, LABEL, numbers(1.5))
    drawn = drawing(SEED, numbers(1.0), *ALL, LABEL, numbers(1.5))
    assert (margins > 0).all()
    head = drawing.prior.head.weight
    before = head.clone()
    head.add_(torch.randn(head.shape, generator=torch.Generator().manual_seed(0)) * 1e-6)
    assert margins.min() > 1e-4 and torch.equal(drawing(SEED, numbers(1.0), *ALL, LABEL, numbers(1.5)), drawn)
    head.copy_(before + torch.randn(head.shape, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(drawing(SEED, numbers(1.0), *ALL, LABEL, numbers(1.5)), drawn)
