"""JSON of clients is read strictly, and within bounds of memory."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd.core.errors import InputError
from mlx_sd.studio.requests.json_text import DEPTH, VALUES, loads

WRONG = {
    "nothing": (b"", "not JSON"),
    "half": (b'{"a": ', "not JSON"),
    "two": (b"{} {}", "not JSON"),
    "single quotes": (b"{'a': 1}", "not JSON"),
    "a comment": (b"{} // a", "not JSON"),
    "a mark of byte order": (b"\xef\xbb\xbf{}", "not JSON"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
    "latin-1": ('{"a": "\u00e9"}'.encode("latin-1"), "not UTF-8"),
    "a name twice": (b'{"a": 1, "a": 2}', "twice"),
    "a name twice, written in two ways": (b'{"a": 1, "\\u0061": 2}', "twice"),
    "NaN": (b'{"a": NaN}', "no number"),
    "infinity": (b'{"a": -Infinity}', "no number"),
    "a number beyond floats": (b'{"a": 1e999}', "too large"),
    "a number of many digits": (b'{"a": ' + b"9" * 30 + b"}", "digits"),
    "a number of very many digits": (b'{"a": ' + b"9" * 500_000 + b"}", "digits"),
    "half a character": (b'{"a": "\\ud800"}', "half a character"),
    "half a character in a name": (b'{"\\udfff": 1}', "half a character"),
    "NUL": (b'{"a": "b\\u0000c"}', "NUL"),
    "deep lists": (b"[" * (DEPTH + 2) + b"]" * (DEPTH + 2), "deeper"),
    "deep objects": (b'{"a":' * (DEPTH + 2) + b"1" + b"}" * (DEPTH + 2), "deeper"),
    "very deep lists": (b"[" * 90_000, "deeper"),
    "many values": (b"[" + b"[]," * VALUES + b"1]", "values"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_readers_disagree_about_is_refused_in_one_line(name):
    text, words = WRONG[name]
    with pytest.raises(InputError, match=words) as caught:
        loads(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


_plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc\u00e9"), inner, max_size=4),
    max_leaves=20,
)


@given(_plain)
def test_every_plain_value_comes_back(value):
    assert loads(json.dumps(value).encode()) == value
    assert loads(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: json.dumps(text, ensure_ascii=True).encode()))
def test_any_bytes_are_a_value_or_one_line(data):
    try:
        loads(data)
    except InputError as error:
        assert "\n" not in str(error)


def test_a_text_of_many_small_values_takes_no_more_memory_than_it_is_long():
    text = b"[" + b"{}," * (10 << 20) + b"1]"
    tracemalloc.start()
    with pytest.raises(InputError, match="values"):
        loads(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
