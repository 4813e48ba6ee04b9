"""A byte-pair vocabulary of a few thousand merges, trained on the names of characters and on words of many scripts."""

import unicodedata
from collections import Counter, defaultdict
from heapq import heapify, heappop, heappush
from itertools import pairwise
from random import Random

from tests.support.swift_goldens.text_samples import SCRIPTS, word

_MERGES = 4000


def trained() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Returns the vocabulary and its merges; ids in CLIP's order: bytes, those that end words, merges, special."""
    names = _byte_names()
    counts: Counter[tuple[str, ...]] = Counter()
    for text, count in _words().items():
        letters = [names[byte] for byte in text.encode()]
        counts[(*letters[:-1], letters[-1] + "</w>")] += count
    merges = _merges(counts)
    tokens = [*names, *(name + "</w>" for name in names), *(a + b for a, b in merges)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return vocabulary, merges


def _words() -> Counter[str]:
    counts: Counter[str] = Counter()
    for scalar in range(0x30000):
        counts.update(unicodedata.name(chr(scalar), "").lower().replace("-", " ").split())
    counts = Counter({text: count for text, count in counts.items() if text.isalpha()})
    random = Random(1)
    for letters in SCRIPTS.values():
        few = random.sample(letters, min(len(letters), 12))  # so that pairs come again
        for _ in range(60):
            counts[word(random, few).lower()] += random.randint(1, 20)
    for letter in "aeoz0":
        for length in range(2, 9):  # a pair that overlaps itself: of equal ranks the first is joined first
            counts[letter * length] += 400
    counts.pop("", None)
    return counts


def _merges(counts: Counter[tuple[str, ...]]) -> list[tuple[str, str]]:
    """Returns the merges: again and again the most frequent pair, of equally frequent ones the first by text."""
    words = [(list(letters), count) for letters, count in counts.items()]
    pairs: Counter[tuple[str, str]] = Counter()
    places: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for i, (letters, count) in enumerate(words):
        for pair in pairwise(letters):
            pairs[pair] += count
            places[pair].add(i)
    merges: list[tuple[str, str]] = []
    queue = [(-count, pair) for pair, count in pairs.items()]
    heapify(queue)
    while queue and len(merges) < _MERGES:
        count, best = heappop(queue)
        if -count != pairs[best] or count > -2:  # the count has changed since, or is 1
            continue
        merges.append(best)
        changed: set[tuple[str, str]] = set()
        for i in sorted(places[best]):
            letters, times = words[i]
            for pair in pairwise(letters):
                pairs[pair] -= times
                changed.add(pair)
                places[pair].discard(i)
            place = 0
            while place + 1 < len(letters):
                if (letters[place], letters[place + 1]) == best:
                    letters[place : place + 2] = ["".join(best)]
                place += 1
            for pair in pairwise(letters):
                pairs[pair] += times
                changed.add(pair)
                places[pair].add(i)
        for pair in changed:
            heappush(queue, (-pairs[pair], pair))
    return merges


def _byte_names() -> list[str]:
    """Returns how vocabularies write each byte: as itself where it can be seen, else as a character from U+0100 on."""
    spare = iter(range(256, 512))
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    return [chr(byte) if byte in seen else chr(next(spare)) for byte in range(256)]
