"""Tokens are those of transformers' CLIPTokenizer, whatever is typed."""

import random

import pytest
from transformers import CLIPTokenizer

from mlx_sd.prompts.tokenizer import Tokenizer
from tests.support import families

COUNT = 10_000
PIECES = (
    *("it's", "I'M", "they'll", "we've", "don't", "'s", "''", "'", "\u2019s"),
    *("<|endoftext|>", "<|startoftext|>", "<|ENDOFTEXT|>", "<|endoftext|", "endoftext|>", "<|", "</w>"),
    *("!", "!!", "a!b"),
    *("a red tent", "green grass", "café", "cafe\u0301", "A\u030a", "ﬁne", "Straße", "İstanbuL", "ΣΑΣ", "ς", "DŽ"),
    *("0", "2026", "3.14", "½", "٣", "四", "Ⅷ", "1st"),
    *("🙂", "👩‍👩‍👧", "🇫🇷", "🏽", "e\u0301\u0302\u0303", "ñ", "n\u0303"),
    *(
        "日本語",
        "한국어",
        "\u1112\u1161\u11ab",
        "привет",
        "שלום",
        "مرحبا",
        "नमस्ते",
        "ไทย",
        "ᏣᎳᎩ",
        "\U0001d518\U0001d52b",
    ),
    *(" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\u200d", "\ufeff", "\u2028"),
    *("\x00", "\x01", "\x7f", "\x85", "\x1f", "\ufffd", "\u0378", "\ue000", "\U0010ffff"),
    *("(", ")", "[x:1.2]", ",", "...", "--", "_", "a_b", "#tag", "@", "\\", "/", '"', "`", "~", "$", "€"),
)


def texts(seed: int) -> list[str]:
    """Random strings: pieces that have been trouble, and characters of any script."""
    rng = random.Random(seed)

    def character() -> str:
        top = rng.choice((0x7F, 0x24F, 0x2FFF, 0xFFFF, 0x1FFFF))
        code = rng.randint(0, top)
        return chr(code) if not 0xD800 <= code < 0xE000 else "x"  # halves of pairs are no text

    def piece() -> str:
        return rng.choice(PIECES) if rng.random() < 0.6 else "".join(character() for _ in range(rng.randint(1, 4)))

    return [rng.choice(("", " ")).join(piece() for _ in range(rng.randint(0, 12))) for _ in range(COUNT)]


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
@pytest.mark.parametrize("files", [("vocab.json", "merges.txt"), ("tokenizer.json",)])
def test_tokens_are_the_same_and_so_is_the_padding(files, pad, tmp_path, measure):
    families.write_tokenizer(tmp_path / "tokenizer", pad, files)
    theirs = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    ours = Tokenizer.load(tmp_path / "tokenizer")
    typed = texts(len(pad))
    cut = theirs(typed, truncation=True, max_length=77)["input_ids"]
    padded = theirs(typed, truncation=True, max_length=77, padding="max_length")["input_ids"]
    whole = theirs(typed, add_special_tokens=False)["input_ids"]
    wrong = [
        text
        for text, ids, full, everything in zip(typed, cut, padded, whole, strict=True)
        if ours.encode(text) != ids
        or ours.chunks(text)[0] != full
        or [i for chunk in ours.chunks(text) for i in chunk[1:-1]][: len(everything)] != everything
    ]
    assert any(len(everything) > 75 for everything in whole)
    measure("tokens, share of strings that differ", len(wrong) / COUNT, 0)
    assert not wrong, ascii(wrong[:5])
