"""Words: the vocabulary learnt from captions, and the encoder."""

import json

import pytest
import torch
from zoo_latent.text import MERGES, VOCABULARY, Condition, learnt, tokenizer

from zoo.errors import InvalidFileError

from .models import ASSETS, CAPTIONS, made, plain, text


def test_a_vocabulary_does_not_depend_on_the_order_of_the_captions():
    assert learnt(CAPTIONS, 600) == learnt(reversed(CAPTIONS), 600) == ASSETS


def test_frequent_words_become_one_token():
    numbers = json.loads(ASSETS[VOCABULARY])
    tokens = tokenizer(ASSETS, 8, 600)(text("Red APPLE"))[0].tolist()
    assert tokens == [
        numbers["<|startoftext|>"], numbers["red</w>"], numbers["apple</w>"], numbers["<|endoftext|>"],
        *[numbers["<|pad|>"]] * 4,
    ]  # fmt: skip


def test_a_vocabulary_has_at_most_as_many_tokens_as_asked():
    texts = [f"{a}{b}{c}" for a in "abcdef" for b in "abcdef" for c in "abcdef"] * 2
    assert len(json.loads(learnt(texts, 530)[VOCABULARY])) == 530


def test_merges_are_those_of_a_plain_count():
    """Against the method as Sennrich et al. 2016, algorithm 1, writes it: recount all pairs before each merge."""
    words = {"lower": 5, "low": 2, "newest": 6, "widest": 3}
    texts = [word for word, number in words.items() for _ in range(number)]
    symbols = {word: [*word[:-1], word[-1] + "</w>"] for word in words} | {"the": ["t", "h", "e</w>"]}
    words = words | {"the": 2}
    merges = []
    while True:
        counts: dict[tuple[str, str], int] = {}
        for word, parts in symbols.items():
            for pair in zip(parts, parts[1:]):
                counts[pair] = counts.get(pair, 0) + words[word]
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(" ".join(best))
        for word, parts in symbols.items():
            merged, i = [], 0
            while i < len(parts):
                both = tuple(parts[i : i + 2]) == best
                merged.append("".join(best) if both else parts[i])
                i += 2 if both else 1
            symbols[word] = merged
    assert learnt(texts, 60_000)[MERGES].decode().splitlines()[1:] == merges


@pytest.mark.parametrize(
    "assets, reason",
    [
        ({}, "vocab.json, which is not one of its files"),
        ({VOCABULARY: b"{", MERGES: b""}, "are not a vocabulary"),
        ({VOCABULARY: b"{}", MERGES: b"a b\n"}, "are not a vocabulary"),
        ({VOCABULARY: ASSETS[VOCABULARY], MERGES: b"a b c\n"}, "are not a vocabulary"),
    ],
)
def test_assets_that_are_not_a_vocabulary_are_named(assets, reason):
    with pytest.raises(InvalidFileError, match=reason):
        tokenizer(assets, 8, 600)


def test_padding_changes_nothing():
    parts, _ = made(plain())
    short = parts.text.encode(parts.text.tokenize(text("red apple")))
    with torch.no_grad():
        parts.text.token.weight[parts.text.tokenize.padding] += 100
    again = parts.text.encode(parts.text.tokenize(text("red apple")))
    there = short.there[0]
    torch.testing.assert_close(again.context[0][there], short.context[0][there])
    torch.testing.assert_close(again.pooled, short.pooled)


def test_conditions_join_along_the_batch():
    a = Condition(pooled=torch.zeros(2, 3), label=torch.tensor([1, 2]))
    both = a.and_then(Condition(pooled=torch.ones(2, 3), label=torch.tensor([-1, -1])))
    assert both.pooled.shape == (4, 3) and both.label.tolist() == [1, 2, -1, -1] and both.context is None
