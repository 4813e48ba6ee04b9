"""A reader of an app's kit that knows its README alone: it imports NumPy and json, and nothing of ours."""

import json
import unicodedata
from pathlib import Path

import numpy as np

_SPACES = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


def load(path):
    """The content of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def array(folder, entry):
    """The array that an entry {"file": ..., "shape": ...} of a JSON file in `folder` describes."""
    return np.fromfile(Path(folder) / entry["file"], "<f4").reshape(entry["shape"])


# ------------------------------------------------------------------------------------------------ the loop


def run(table, noise, fresh, evaluate):
    """The latents after each evaluation, those before the first in front."""
    x = table["start"]["noise"] * noise
    if table["start"]["fresh_noise"]:
        x = x + table["start"]["fresh_noise"] * fresh()
    trace, base, estimates, features = [x], x, [], {}
    for number, row in enumerate(table["rows"]):
        deep = None if row["full"] else [(weight, features[int(i)]) for i, weight in row["deep"]]
        prediction, feature = evaluate(x, row["timestep"], deep)
        if row["full"]:
            features[number] = feature
        for i in row["forget"]:
            features.pop(i)
        estimates = [row["estimate"]["latents"] * x + row["estimate"]["prediction"] * prediction, *estimates]
        estimates = estimates[: table["history"]]
        for name in ("correction", "mix"):
            if row[name]:
                terms = zip(row[name]["estimates"], estimates, strict=False)
                x = row[name]["base"] * base + sum(weight * estimate for weight, estimate in terms)
                base = x if name == "correction" else base
        if row["fresh_noise"]:
            x = x + row["fresh_noise"] * fresh()
        base = x if row["ends_step"] else base
        trace.append(x)
    return np.stack(trace)


# ------------------------------------------------------------------------------------------------ noise


def numpy_noise(seed):
    """draw(shape) of the generator "numpy"."""
    stream = np.random.RandomState(seed)
    return lambda shape: stream.standard_normal(shape).astype(np.float32)


def torch_noise(seed):
    """draw(shape) of the generator "torch", for sizes that are multiples of 16."""
    words = np.random.RandomState(seed)

    def draw(shape):
        groups = (words.randint(0, 2**32, np.prod(shape), np.uint32) % 2**24 / 2**24).reshape(-1, 2, 8)
        radius, angle = np.sqrt(-2 * np.log(1 - groups[:, 0])), 2 * np.pi * groups[:, 1]
        noise = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return noise.reshape(shape).astype(np.float32)

    return draw


def cuda_noise(seed):
    """draw(shape) of the generator "cuda": Philox 4x32-10, one counter for each number, in Python's integers."""
    calls = iter(range(99))

    def draw(shape):
        call = next(calls)
        uniform = np.array([_philox([call, 0, i, 0], seed)[:2] for i in range(int(np.prod(shape)))])
        u, v = ((uniform.astype(np.float64) + 0.5) / 2**32).T
        return (np.sqrt(-2 * np.log(u)) * np.sin(2 * np.pi * v)).reshape(shape).astype(np.float32)

    return draw


def _philox(counter, seed):
    key = [seed % 2**32, seed // 2**32]
    a, b, c, d = counter
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ key[0], q % 2**32, (p >> 32) ^ d ^ key[1], p % 2**32
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return a, b, c, d


GENERATORS = {"numpy": numpy_noise, "torch": torch_noise, "cuda": cuda_noise}


# ------------------------------------------------------------------------------------------------ tokens


class Tokenizer:
    """CLIP's byte pairs, from vocab.json and merges.txt of an export."""

    def __init__(self, folder, start, end, length):
        self.ids = load(Path(folder) / "vocab.json")
        lines = (Path(folder) / "merges.txt").read_text(encoding="utf-8").split("\n")[1:]
        self.ranks = {tuple(line.split(" ")): i for i, line in enumerate(lines) if line}
        self.start, self.end, self.length = start, end, length
        self.special = {name: self.ids[name] for name in ("<|startoftext|>", "<|endoftext|>")}
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [byte for byte in range(256) if byte not in printable]
        self.letters = {byte: chr(byte) for byte in printable} | {b: chr(256 + i) for i, b in enumerate(others)}

    def encode(self, text):
        """The ids from the start token to the end token, at most `length`."""
        ids, plain = [], ""
        while text:
            special = next((name for name in self.special if text.startswith(name)), None)
            if special is None:
                plain, text = plain + text[0], text[1:]
                continue
            ids += [*self._plain(plain), self.special[special]]
            plain, text = "", text[len(special) :]
        ids += self._plain(plain)
        return [self.start, *ids[: self.length - 2], self.end]

    def _plain(self, text):
        text = "".join(c.lower() for c in unicodedata.normalize("NFC", text))
        words = []
        while text:
            word = _word(text)
            words += [word] if word[0] not in _SPACES else []
            text = text[len(word) :]
        return [token for word in words for token in self._pairs(word)]

    def _pairs(self, word):
        parts = [self.letters[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pairs = [(parts[i], parts[i + 1]) for i in range(len(parts) - 1)]
            rank, i = min((self.ranks.get(pair, 1 << 30), i) for i, pair in enumerate(pairs))
            if rank == 1 << 30:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return [self.ids.get(part, self.end) for part in parts]


def _kind(letter):
    if letter in _SPACES:
        return " "
    category = unicodedata.category(letter)[0]
    return category if category in "LN" else "other"


def _word(text):
    contraction = next((c for c in _CONTRACTIONS if text.startswith(c)), None)
    if contraction:
        return contraction
    kind, size = _kind(text[0]), 1
    while size < len(text) and kind in ("L", "other") and _kind(text[size]) == kind:
        size += 1
    return text[:size]
