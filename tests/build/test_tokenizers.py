"""Tokenizers inside graphs: in torch, in ONNX Runtime, and CLIP's against transformers' on CLIP's own vocabulary."""

import gzip
import importlib.util
import json
import random
import sys
import unicodedata
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zoo.build.tokenizers import ByteTokenizer, ClipTokenizer, letters_of_bytes
from zoo.build.tracing import export_task
from zoo.build.weights import Weights
from zoo.errors import InvalidFileError
from zoo.hookspecs import Port, Task

SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def encoded(texts: list[str], length: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.frombuffer(t.encode().ljust(length, b"\0"), np.uint8) for t in texts]))


def graph_of(tokenizer: torch.nn.Module, length: int, folder: Path):
    """The tokenizer's own graph in ONNX Runtime: texts to token numbers."""
    text = Port(kind="text", dtype="uint8", shape=("batch", length))
    width = int(tokenizer(encoded(["a"], length)).shape[1])
    out = Port(kind="tensor", dtype="float32", shape=("batch", width))

    class Floats(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tokenizer = tokenizer

        def forward(self, text: torch.Tensor) -> torch.Tensor:
            return self.tokenizer(text).float()

    module = Floats()
    task = Task(summary="x", inputs={"text": text}, outputs={"tokens": out})
    export_task(module, "tokenize", task, Weights(module, ["model"], folder), folder / "tokenize.onnx")
    session = onnxruntime.InferenceSession(str(folder / "tokenize.onnx"), providers=["CPUExecutionProvider"])

    def run(texts: list[str]) -> list[list[int]]:
        return session.run(None, {"text": encoded(texts, length).numpy()})[0].astype(int).tolist()

    return run


# --- Bytes ------------------------------------------------------------------------------------------------------------


def normal(text: str, lower: bool = True) -> bytes:
    """What `ByteTokenizer` must give, in Python."""
    data = b" ".join(text.encode().split())  # of bytes, at ASCII's six spaces; str also knows others
    return bytes(b + 32 if lower and 65 <= b <= 90 else b for b in data)


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10), st.booleans())
@example("\x1f a\u3000\x85", True)
def test_bytes_are_tokens_without_needless_spaces(text: str, lower: bool):
    tokens = ByteTokenizer(lower)(encoded([text, "  A  b "], 40))
    assert [bytes(row).rstrip(b"\0") for row in tokens.to(torch.uint8).numpy()] == [
        normal(text, lower),
        b"a b" if lower else b"A b",
    ]


def test_the_graph_of_bytes_gives_the_same(tmp_path: Path):
    run = graph_of(ByteTokenizer(), 24, tmp_path)
    texts = ["", " ", "Red  Apple ", "\t\nTwo\n\nlines", "Ünï CÖDE"]
    assert run(texts) == ByteTokenizer()(encoded(texts, 24)).tolist()


# --- Byte pairs -------------------------------------------------------------------------------------------------------


def toy() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary of few merges, in which a later pair can be made before an earlier one is looked at again."""
    merges = [
        ("a", "b"), ("b", "c"), ("ab", "c</w>"), ("a", "a"), ("aa", "aa"), ("b", "a"), ("c", "ab"), ("aa", "a</w>"),
        ("ab", "ab"), ("e", "d</w>"), ("r", "ed</w>"),
    ]  # fmt: skip
    letters = letters_of_bytes()
    words = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), *SPECIAL]
    return {word: number for number, word in enumerate(words)}, merges


def merged(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding of one ASCII word as the papers have it: again and again the pair of the lowest rank."""
    parts = [*word[:-1], word[-1] + "</w>"]
    while pairs := [(merges.index(pair), i) for i, pair in enumerate(zip(parts, parts[1:])) if pair in merges]:
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("abcd", min_size=1, max_size=9), max_size=5))
def test_pairs_are_merged_in_the_order_of_their_ranks(words: list[str]):
    vocabulary, merges = toy()
    want = [vocabulary[part] for word in words for part in merged(word, merges)]
    start, end = (vocabulary[token] for token in SPECIAL)
    got = ClipTokenizer(vocabulary, merges, length=64)(encoded([" ".join(words)], 56))[0].tolist()
    assert got == [start, *want, end] + [end] * (62 - len(want))


@pytest.mark.slow
def test_a_long_text_is_cut_and_ends_with_its_end(tmp_path: Path):
    vocabulary, merges = toy()
    start, end = (vocabulary[token] for token in SPECIAL)
    tokenizer = ClipTokenizer(vocabulary, merges, length=5, padding=0)
    got = tokenizer(encoded(["d d d d d d", "red", ""], 16)).tolist()
    d, red = vocabulary["d</w>"], vocabulary["red</w>"]
    assert got == [[start, d, d, d, end], [start, red, end, 0, 0], [start, end, 0, 0, 0]]
    assert graph_of(tokenizer, 16, tmp_path)(["d d d d d d", "red", ""]) == got


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_port_of_few_bytes_has_tokens(length: int, tmp_path: Path):
    tokenizer = ClipTokenizer(*toy(), length=5)
    text = "a" * length
    expected = tokenizer(encoded([text], 16))
    assert torch.equal(tokenizer(encoded([text], length)), expected)
    assert graph_of(tokenizer, length, tmp_path)([text]) == expected.tolist()


def test_tables_of_another_unicode_are_loaded_as_they_are():
    vocabulary, merges = toy()
    made = ClipTokenizer(vocabulary, merges, length=8)
    state = dict(made.state_dict())
    # Another page in which "b" is a digit: so "ab" is two words.
    kinds = state["kind_entry"]
    first = int(state["kind_page"][0]) * 256
    page = kinds[first : first + 256].clone()
    page[ord("b")] = 2
    state["kind_entry"], state["kind_page"] = torch.cat([kinds, page]), state["kind_page"].clone()
    state["kind_page"][0] = len(kinds) // 256
    fresh = ClipTokenizer(vocabulary, merges, length=8)
    fresh.load_state_dict(state)
    start, end = (vocabulary[token] for token in SPECIAL)
    text = encoded(["ab"], 4)
    assert fresh(text)[0, :4].tolist() == [start, vocabulary["a</w>"], vocabulary["b</w>"], end]
    assert not torch.equal(made(text), fresh(text))
    torch.nn.Sequential(made).load_state_dict({f"0.{key}": value for key, value in state.items()})
    assert torch.equal(made(text), fresh(text))


def test_a_vocabulary_without_a_merge_is_named():
    vocabulary, merges = toy()
    del vocabulary["red</w>"]
    with pytest.raises(InvalidFileError, match="the vocabulary has no token 'red</w>'"):
        ClipTokenizer(vocabulary, merges)


# --- CLIP's vocabulary ------------------------------------------------------------------------------------------------


def clip() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's vocabulary, from the file in open_clip's wheel."""
    spec = importlib.util.find_spec("open_clip")
    assert spec and spec.submodule_search_locations
    file = Path(spec.submodule_search_locations[0], "bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")
    merges = [(a, b) for a, b in (line.split() for line in lines[1 : 49152 - 256 - 2 + 1])]
    letters = letters_of_bytes()
    letters.sort()  # the printable ones come first in the vocabulary
    words = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), *SPECIAL]
    return {word: number for number, word in enumerate(words)}, merges


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory):
    """transformers' tokenizer, which diffusers uses: texts to token numbers."""
    from transformers import CLIPTokenizer

    vocabulary, merges = clip()
    folder = tmp_path_factory.mktemp("clip")
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges), ""]))
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    return lambda texts: tokenizer(texts, padding="max_length", max_length=77, truncation=True)["input_ids"]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory):
    """The graphs for texts of at most 96 and 300 bytes, by that length."""
    tokenizer = ClipTokenizer(*clip())
    return {n: graph_of(tokenizer, n, tmp_path_factory.mktemp(f"graph{n}")) for n in (96, 300)}


def different(run, reference, texts: list[str]) -> list[str]:
    wrong = []
    for i in range(0, len(texts), 25):  # all texts of a batch take as many steps as the one with the most pairs
        some = texts[i : i + 25]
        wrong += [t for t, want, got in zip(some, reference(some), run(some), strict=True) if want != got]
    return wrong


WORDS = [
    "a", "an", "the", "red", "green", "apple", "cat", "dog", "house", "it's", "they're", "I'll", "we've", "don't",
    "can't", "'quoted'", "rock'n'roll", "''s", "!'s", "'s's", "'street", "3", "14", "2024", "3.14", "1,000", "½",
    "Ⅷ", "²", "#", "@", "&", "...", "!!!", "?!", "(x)", "[y]", "{z}", "<tag>", "a/b", "C++", "naïve", "café",
    "Straße", "ÉCOLE", "ÆØÅ", "Ünïcödé", "Ωmega", "ΣΑΣ", "привет", "МИР", "猫", "犬と猫", "日本語", "한국어", "العربية",
    "हिन्दी", "ไทย", "😀", "👍🏽", "👩\u200d🚀", "❤️", "🇩🇪", "#️⃣", "Ⱥ", "Ⱦ", "ǅ", "ﬁ", "™", "€", "£", "\u3000", "\xa0",
    "\t", "\n", "-", "--", "_", "~", "`", "^", "|", "\\", '"',
]  # fmt: skip


def made(count: int, longest: int, seed: int) -> list[str]:
    """Texts of the words above and of random characters, in normal form C."""
    rng = random.Random(seed)
    ranges = ((32, 127), (32, 127), (160, 0x250), (0x370, 0x530), (0x5D0, 0x700), (0x900, 0xA00), (0x2000, 0x2C00),
              (0x3040, 0x3100), (0x4E00, 0x9FA5), (0xAC00, 0xD7A4), (0x1F300, 0x1FB00), (0x10400, 0x10450))  # fmt: skip
    texts: list[str] = []
    while len(texts) < count:
        parts = []
        for _ in range(rng.randrange(1, 9)):
            low, high = rng.choice(ranges)
            letters = "".join(chr(rng.randrange(low, high)) for _ in range(rng.randrange(1, 6)))
            parts.append(rng.choice([rng.choice(WORDS), rng.choice(WORDS).upper(), letters]))
        text = unicodedata.normalize("NFC", rng.choice(["", " "]).join(parts))
        if len(text.encode()) <= longest and "İ" not in text:
            texts.append(text)
    return texts


@pytest.mark.slow
def test_ten_thousand_texts_give_the_tokens_of_transformers(ours, reference):
    texts = ["", " ", *made(9_900, 64, 0)]
    assert different(ours[96], reference, texts) == []
    long = ["x" * 300, "!" * 300, "猫" * 100, "😀" * 75, "the quick brown fox " * 15, *made(93, 300, 1)]
    assert different(ours[300], reference, long) == []


@pytest.mark.slow
@pytest.mark.shared
def test_names_and_keywords_of_emoji_give_the_tokens_of_transformers(ours, reference, shared_data):
    rows = json.loads((shared_data / "data/emoji/emoji.json").read_text())["rows"]
    texts = sorted({row["name"] for row in rows} | {tag for row in rows for tag in row["tags"]})
    assert len(texts) > 3_000
    assert different(ours[96], reference, texts) == []


@pytest.mark.slow
def test_what_differs_from_transformers_is_what_the_docstring_says(ours, reference):
    """Texts that are not in normal form C, the letter İ, and special tokens written as text."""
    odd = ["e\u0301", "İstanbul", "a <|endoftext|> b"]
    assert different(ours[96], reference, odd) == odd


@pytest.mark.slow
def test_numbers_stay_below_two_to_the_31(tmp_path: Path):
    vocabulary, merges = toy()
    graph_of(ClipTokenizer(vocabulary, merges), 300, tmp_path)
    model = onnx.load(tmp_path / "tokenize.onnx", load_external_data=False)
    constants = [
        onnx.numpy_helper.to_array(a.t)
        for graph in _graphs(model.graph)
        for node in graph.node
        for a in node.attribute
        if a.name == "value" and a.t.dims is not None
    ]
    assert constants and max(int(np.abs(c).max()) for c in constants if c.size and c.dtype.kind == "i") < 2**31
    assert sys.maxsize > 2**31  # and positions times ranks: 450 * 48,894


def _graphs(graph):
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
