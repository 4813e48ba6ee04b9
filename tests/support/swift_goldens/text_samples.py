"""Texts and prompts that are hard to read right, generated from seeds: scripts, emoji, spaces, brackets."""

import unicodedata
from random import Random

_BLOCKS = {
    "latin": (0x41, 0x24F),
    "greek": (0x370, 0x3FF),
    "cyrillic": (0x400, 0x52F),
    "armenian": (0x531, 0x58A),
    "hebrew": (0x591, 0x5F4),
    "arabic": (0x600, 0x6FF),
    "syriac": (0x700, 0x74F),
    "devanagari": (0x900, 0x97F),
    "bengali": (0x980, 0x9FE),
    "gurmukhi": (0xA01, 0xA76),
    "gujarati": (0xA81, 0xAF1),
    "tamil": (0xB82, 0xBFA),
    "telugu": (0xC00, 0xC7F),
    "kannada": (0xC80, 0xCF2),
    "malayalam": (0xD00, 0xD7F),
    "sinhala": (0xD81, 0xDF4),
    "thai": (0xE01, 0xE5B),
    "lao": (0xE81, 0xEDF),
    "tibetan": (0xF00, 0xFDA),
    "myanmar": (0x1000, 0x109F),
    "georgian": (0x10A0, 0x10FF),
    "hangul jamo": (0x1100, 0x11FF),
    "ethiopic": (0x1200, 0x137C),
    "cherokee": (0x13A0, 0x13FD),
    "khmer": (0x1780, 0x17F9),
    "mongolian": (0x1800, 0x18AA),
    "latin additions": (0x1E00, 0x1EFF),
    "greek additions": (0x1F00, 0x1FFE),
    "hiragana": (0x3041, 0x309F),
    "katakana": (0x30A0, 0x30FF),
    "han": (0x4E00, 0x9FFC),
    "yi": (0xA000, 0xA48C),
    "hangul": (0xAC00, 0xD7A3),
    "compatible han": (0xF900, 0xFAD9),
    "wide forms": (0xFF01, 0xFFEE),
    "gothic": (0x10330, 0x1034A),
    "deseret": (0x10400, 0x1044F),
    "kaithi": (0x11080, 0x110C2),
    "cuneiform": (0x12000, 0x12399),
    "musical": (0x1D100, 0x1D1E8),
    "mathematical": (0x1D400, 0x1D7FF),
    "adlam": (0x1E900, 0x1E95F),
    "compatible han beyond": (0x2F800, 0x2FA1D),
}


def _assigned(first: int, last: int) -> list[str]:
    return [chr(s) for s in range(first, last + 1) if unicodedata.category(chr(s)) not in ("Cn", "Cs", "Co")]


# The characters of Unicode 14 in each block, by its name.
SCRIPTS = {name: _assigned(*block) for name, block in _BLOCKS.items()}
_SPACES = [*"\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000", *map(chr, range(0x2000, 0x200B)), "\r\n"]
_CONTROLS = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), *"\u200b\u200c\u200d\u200e\u2060\ufeff\u00ad"]
_MARKS = [*map(chr, range(0x300, 0x36F)), "\u05b4", "\u0654", "\u093c", "\u3099", "\u309a", "\u20dd", "\ufe0f"]
_EMOJI = [
    "😀",
    "❤️",
    "👍🏽",
    "👩‍🚀",
    "👨‍👩‍👧‍👦",
    "🏳️‍🌈",
    "🇩🇪🇯🇵",
    "1️⃣",
    "☂",
    "🧑🏿‍🦽",
    "🫠",
    "🀄",
    "©",
    "™",
    "🏴󠁧󠁢󠁳󠁣󠁴󠁿",
]
_SPECIAL = [
    "<|startoftext|>",
    "<|endoftext|>",
    "<|STARTOFTEXT|>",
    "<|EndOfText|>",
    "<|startoftext|",
    "<|<|endoftext|>|>",
    "|endoftext|>",
    "< |endoftext|>",
    "<|startoftext|><|endoftext|>",
    "!",
    "!!!",
    "</w>",
    "a</w>",
]
_TEXT = """
a red tent on green grass, under a clear day sky; it's the astronaut's 2nd photo (35mm, f/1.8) don't we'll they've I'm
you're he'd masterpiece, best-quality 8k_uhd #nofilter @home 100% $5 half & half a/b C++ x^2 'quoted' "too" O'Neill 'Tis
rock'n'roll 'SAY 'Twas 'rEd 'll'll ''s ... --- \u2026 \u2014 \u201ccurly\u201d \u2018s don\u2019t café naïve Ångström
ÉCLAIR ŒUVRE Straße İstanbul ΣΊΣΥΦΟΣ ǅungla ﬁne ½ ² ① Ⅷ ㎏ ª º
"""
_ENGLISH = _TEXT.split()


def word(random: Random, letters: list[str], longest: int = 9) -> str:
    """Returns a word of some of the letters."""
    return "".join(random.choices(letters, k=random.randint(1, longest)))


def texts() -> list[str]:
    """Returns 2,428 texts."""
    random = Random(2)
    result = ["", " ", "a", "\0", "é", "e\u0301", "한", "\u1112\u1161\u11ab", "하\u11ab", "\U0001043a\u0301", "Å Å Å"]
    result += [*_ENGLISH, *_SPECIAL, *_EMOJI, *_SPACES, *_CONTROLS, " ".join(_ENGLISH), "".join(_EMOJI)]
    for letters in SCRIPTS.values():
        for _ in range(20):
            text = " ".join(word(random, letters) for _ in range(random.randint(1, 6)))
            form = random.choice(["NFC", "NFD", None, None])
            result.append(unicodedata.normalize(form, text) if form else text)
        result.append("".join(random.choices(letters, k=60)))
    scripts = list(SCRIPTS.values())
    while len(result) < 2390:
        parts = []
        for _ in range(random.randint(1, 12)):
            letters = random.choice(
                [_SPACES, _SPACES, _CONTROLS, _MARKS, _EMOJI, _SPECIAL, _ENGLISH, _ENGLISH, _ENGLISH, scripts, scripts]
            )
            if letters is scripts:
                parts.append(word(random, random.choice(scripts)))
            elif letters is _MARKS:
                parts.append(random.choice("aeoAEÜкかは\u03b1") + word(random, _MARKS, 4))
            else:
                parts.append(random.choice(letters))
            parts.append(random.choice(["", "", " ", ", "]))
        result.append("".join(parts))
    result += [" ".join(letter * length for letter in "aeoz") for length in range(2, 30)]
    long = " ".join(random.choices(_ENGLISH, k=2000))
    result += [long, "a" * 3000, "ab" * 1500, "!" * 500, " " * 1000 + "x", "漢字" * 700, "👩‍🚀" * 200, long.upper()]
    result += ["é" * 999, "e\u0301" * 999]
    return result


def marks() -> list[str]:
    """Returns letters with marks behind them in every order, for Unicode's normalization forms."""
    random = Random(3)
    letters = [letter for block in SCRIPTS.values() for letter in block]
    every = [chr(s) for s in range(0x300, 0x1F000) if unicodedata.combining(chr(s))]
    return ["".join([random.choice(letters), *random.choices(every, k=random.randint(1, 5))]) for _ in range(4000)]


def weighted_prompts() -> list[str]:
    """Returns prompts with ordinary weights."""
    random = Random(4)
    words = [text for text in _ENGLISH if not set(text) & set("()[]\\:")]
    result = []
    for _ in range(200):
        parts = []
        for _ in range(random.choice([3, 12, 60])):
            text = " ".join(random.choices(words, k=random.randint(1, 5)))
            form = random.choice(["{}", "{}", "({})", "(({}))", "[{}]", "({}:1.3)", "({}:0.4)", "({}:.5)", "({}:-1)"])
            parts.append(form.format(text))
            parts.append(random.choice([", ", " ", ",", " BREAK ", ". "]) if random.random() < 0.9 else "\n")
        result.append("".join(parts))
    return result


def prompts() -> list[str]:
    """Returns 700 prompts: with ordinary weights, and soups of brackets, colons, numbers and BREAKs."""
    random = Random(6)
    soup = [
        "(",
        ")",
        "[",
        "]",
        ":",
        "\\",
        "\\(",
        "\\)",
        "\\[",
        "|",
        ":1.3)",
        ":1.2.3)",
        ": .5 )",
        ":-1)",
        ":٣)",
        ":1e3)",
    ]
    soup += [
        ":inf)",
        ":1_0)",
        ":nan0)",
        "BREAK",
        " BREAK ",
        "aBREAK",
        "BREAKb",
        "BREAK\n",
        "_BREAK",
        "éBREAK",
        "①BREAK",
    ]
    soup += [
        " ",
        ", ",
        "a",
        "red tent",
        "猫",
        "é",
        "\n",
        "\x1f",
        "\u3000",
        "0.5",
        "16:9",
        "AND",
        "(((",
        ")))",
        ",",
        ".",
    ]
    soup += ["a very-long_word/with*many&parts+of=it", "<lora", "<cat>", "embedding:cat", "photo"]
    ordinary = weighted_prompts()
    result = [
        "",
        " ",
        "BREAK",
        "BREAK BREAK",
        "a BREAK",
        "(a",
        "a)",
        "[a",
        "(a BREAK b:1.2) c",
        "((a:1.2) b:0.5)",
        "\\",
    ]
    result += [", ".join(["red tent"] * count) for count in (20, 37, 38, 60, 90)]
    result += [" ".join(["tent"] * count) for count in (30, 74, 75, 76, 150, 151)]
    result += [f"{'tent ' * count}, {'x ' * 40}" for count in range(50, 76, 2)]
    result += ordinary
    result += ["".join(random.choices(soup, k=random.randint(1, 25))) for _ in range(700 - len(result))]
    return result


def joined_prompts() -> list[str]:
    """Returns prompts that AND joins, with and without numbers."""
    random = Random(7)
    parts = [
        "a tent",
        "AND",
        " AND ",
        "AND\n",
        ":0.5",
        " : -1.5 ",
        ":.5",
        ":1.",
        ":",
        ":1e3",
        "moon",
        " ",
        "BRAND",
        "é",
    ]
    result = [
        "a tent AND a moon :0.5",
        "a:1",
        "a :2 AND b : 3 ",
        "AND",
        "a AND",
        "AND a",
        "16:9 AND 16:9",
        "a AND b:1 :2",
    ]
    return result + ["".join(random.choices(parts, k=random.randint(1, 9))) for _ in range(300)]
