"""Files of prompts: plain lines, lines of JSON, comments, the standard input; wildcards."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd import Request, metadata
from mlx_sd.cli import flags
from mlx_sd.cli.prompt_list import templates_of
from mlx_sd.core.errors import InputError
from mlx_sd.prompts.wildcards import expand

pytestmark = pytest.mark.usefixtures("tiny_once")

FAST = ("--steps", 1, "--width", 32, "--height", 32, "--seed", 5)


def _templates(content, *words):
    Path("prompts.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    arguments = flags.parser("x").parse_args(["--prompts", "prompts.txt", *words])
    return templates_of(arguments, Request(steps=7, guidance=3.0))


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("content", "prompts"),
    [
        ("a tent\na house", ["a tent", "a house"]),
        ("\n# nothing\n  a tent  \n\t\n   # nothing\n", ["a tent"]),
        ("\ufeffa tent\r\na house\ra moon\r\n", ["a tent", "a house", "a moon"]),
        ("\\#1 tent", ["#1 tent"]),
        ("{red|blue} tent\n{", ["{red|blue} tent", "{"]),
        ('{"prompt": "a\\ntent"}\n{ "prompt" : "b" }', ["a\ntent", "b"]),
        ("ein Zelt über dem Meer\n海の上のテント\u2028x", ["ein Zelt über dem Meer", "海の上のテント\u2028x"]),
    ],
)
def test_lines_are_prompts(content, prompts):
    templates = _templates(content)
    assert [template.request.prompt for template in templates] == prompts
    assert {template.request.steps for template in templates} == {7}


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1), min_size=1))
def test_any_lines_are_read_as_they_are(texts):
    lines = [text.strip() for text in texts]
    expected = [line for line in lines if line and not line.startswith(("#", "\\", "{"))]
    if expected:
        content = "\n".join(["", *expected, ""])
        assert [template.request.prompt for template in _templates(content)] == expected


def test_a_line_of_json_overrules_the_options():
    line = {"prompt": "a tent", "negative": "night", "seed": 9, "size": "64x32", "steps": 3, "output": "t.png"}
    (first, second) = _templates(json.dumps(line | {"sampler": "Euler a", "count": 4}) + "\na house", "--count", "2")
    request = first.request
    assert (request.negative, request.seed, request.width, request.height) == ("night", 9, 64, 32)
    assert (request.steps, request.guidance, first.output, first.pictures) == (3, 3.0, "t.png", 4)
    assert (second.request.steps, second.request.seed, second.output, second.pictures) == (7, None, None, 2)


@pytest.mark.slow
def test_what_json_prints_is_a_line_that_makes_the_picture_again(run, tmp_path):
    assert run("a tent", *FAST, "--sampler", "euler_ancestral", "--output", "a.png")[0] == 0
    settings = metadata.without_facts(metadata.read(tmp_path / "a.png"))
    Path("again.jsonl").write_text(json.dumps(settings | {"output": "b.png"}) + "\n")
    assert run("--prompts", "again.jsonl")[1] == "b.png\n"
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


MISTAKES = {
    '{"prompt": "a",}': "prompts.txt, line 2: not JSON (",
    '{"prompt": "a"} b': "prompts.txt, line 2: not JSON (Extra data)",
    '{"promt": "a"}': "prompts.txt, line 2: it has a setting 'promt', unknown to this version; did you mean 'prompt'?",
    '{"prompt": 7}': "prompts.txt, line 2: it says prompt = 7, which makes no sense",
    '{"prompt": "a", "steps": "many"}': "prompts.txt, line 2: it says steps = 'many'",
    '{"prompt": "a", "size": "big"}': 'prompts.txt, line 2: size is WIDTHxHEIGHT in pixels, for example "512x768"',
    '{"prompt": "a", "count": 0}': "prompts.txt, line 2: count must be a whole number from 1, not 0",
    '{"prompt": "a", "output": ["b"]}': "prompts.txt, line 2: output must be a file name, not ['b']",
    '{"prompt": "a", "output": "b.bmp"}': "prompts.txt, line 2: --output b.bmp: pictures are written as",
    '{"prompt": "a", "output": "{x}.png"}': "prompts.txt, line 2: --output {x}.png: there is no field {x}",
    '{"prompt": "a", "seed": -2}': "prompts.txt, line 2: it says seed = -2",
    '{"prompt": "a", "seed": 4294967295, "count": 2}': "prompts.txt, line 2: seeds must be from 0 to 4294967295",
    '{"prompt": "a", "sampler": "magic"}': "prompts.txt, line 2: ",
    '{"prompt": "a", "steps": 2000}': "prompts.txt, line 2: steps must be from 1 to 1000, not 2000",
    '{"prompt": "a", "class": 3}': "prompts.txt, line 2: this model has no classes",
    '{"prompt": "a", "width": 100}': "prompts.txt, line 2: width must be a positive multiple of 8, not 100",
    '{"prompt": "a", "output": "same.png"}\n{"prompt": "b", "output": "same.png"}': "line 3: output same.png would be",
    '{"a": ' * 100000: "prompts.txt, line 2: not JSON (it is nested too deeply)",
}


@pytest.mark.parametrize("line", MISTAKES, ids=lambda line: line[:40])
def test_a_mistake_names_file_and_line_and_nothing_is_made(run, tmp_path, line):
    Path("prompts.txt").write_text(f"a tent\n{line}\n")
    code, out, err = run("--prompts", "prompts.txt", *FAST[:2])
    assert (code, out, err.count("\n")) == (2, "", 1) and MISTAKES[line] in err, err
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.txt"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# only a comment\n", b"\xef\xbb\xbf"])
def test_a_file_without_prompts_is_refused(content):
    with pytest.raises(InputError, match=r"prompts\.txt is empty; give one prompt a line"):
        _templates(content)


def test_the_standard_input_is_a_file_of_prompts(run, monkeypatch):
    def piped(content):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        return run("--prompts", "-", *FAST)

    assert piped(b"a tent\n# no\na house\n")[1].split() == ["a-tent-5.png", "a-house-5.png"]
    assert "the standard input is empty" in piped(b"")[2]
    assert "the standard input, line 2: not UTF-8" in piped(b"a\n\xff\n")[2]


@pytest.mark.slow
def test_a_line_s_output_lies_in_the_folder_of_the_command(run, tmp_path):
    lines = [{"prompt": "a tent", "output": "t.png"}, {"prompt": "a house", "output": "h/{seed}.png", "count": 2}]
    Path("prompts.txt").write_text("\n".join(map(json.dumps, lines)) + "\na moon\n")
    (tmp_path / "out").mkdir()
    code, out, _ = run("--prompts", "prompts.txt", *FAST, "--output", "out")
    assert (code, out.split()) == (0, ["out/t.png", "out/h/5.png", "out/h/6.png", "out/a-moon-5.png"])
    assert "all 4 pictures are there already" in run("--prompts", "prompts.txt", *FAST, "--output", "out")[2]


@pytest.mark.slow
def test_lines_may_name_models_and_sizes_of_their_own(run, original):
    lines = [
        {"prompt": "a", "model": str(original), "size": "16x16"},
        {"prompt": "b"},
        {"prompt": "c", "size": "40x24"},
    ]
    Path("prompts.txt").write_text("\n".join(map(json.dumps, lines)))
    out = run("--prompts", "prompts.txt", *FAST, "--json")[1]
    reports = json.loads(out)
    assert [report["model"] for report in reports] == [str(original), "tiny", "tiny"]
    assert [(report["width"], report["height"]) for report in reports] == [(16, 16), (32, 32), (40, 24)]


def test_wildcards_are_chosen_by_the_seed_and_recorded(run, tmp_path):
    text = "a {red|blue|green} tent"
    assert run(text, *FAST, "--count", 4, "--output", "{seed}.png")[0] == 0
    prompts = [metadata.read(tmp_path / f"{seed}.png")["prompt"] for seed in range(5, 9)]
    assert prompts == [expand(text, seed) for seed in range(5, 9)] and len({*prompts}) > 1
    Path("prompts.txt").write_text(text)
    (name,) = run("--prompts", "prompts.txt", *FAST)[1].split()
    assert name == f"{prompts[0].replace(' ', '-')}-5.png"
    assert (tmp_path / name).read_bytes() == (tmp_path / "5.png").read_bytes()


@pytest.mark.slow
def test_wildcards_can_be_switched_off_and_a_recorded_prompt_is_not_expanded(run, tmp_path):
    text = "a {red|blue} tent"
    assert run(text, *FAST, "--no-wildcards", "--output", "a.png")[0] == 0
    assert metadata.read(tmp_path / "a.png")["prompt"] == text
    assert run("--from-image", "a.png", "--seed", 6, "--output", "b.png")[0] == 0
    assert metadata.read(tmp_path / "b.png")["prompt"] == text
    assert run("--from-image", "a.png", "a {red|blue} house", "--output", "c.png")[0] == 0
    assert metadata.read(tmp_path / "c.png")["prompt"] == expand("a {red|blue} house", 5)
    assert run(r"a \{tent", *FAST, "--output", "d.png")[0] == 0
    assert metadata.read(tmp_path / "d.png")["prompt"] == "a {tent"


def test_a_lines_name_is_in_the_folder_of_output_which_is_made(run, tmp_path):
    (tmp_path / "prompts.txt").write_text('a tent\n{"prompt": "a house", "output": "house.png"}\n')
    code, out, _ = run("--prompts", "prompts.txt", *FAST, "--output", "new/")
    assert code == 0 and out.split() == ["new/a-tent-5.png", "new/house.png"]


@pytest.mark.slow
def test_a_lines_name_may_have_folders_or_be_absolute(run, tmp_path):
    lines = [{"prompt": "a house", "output": name} for name in ("x/house.png", f"{tmp_path}/absolute.png")]
    (tmp_path / "prompts.txt").write_text("\n".join(map(json.dumps, lines)))
    code, out, _ = run("--prompts", "prompts.txt", *FAST, "--output", "new/")
    assert code == 0 and out.split() == ["new/x/house.png", f"{tmp_path}/absolute.png"]


def test_what_json_prints_makes_the_same_pictures(run):
    command = ("a {red|blue} tent", *FAST, "--count", 2, "--json", "--output", "p/")
    for printed in (run(*command)[1], run(*command)[1]):  # of pictures that were made, and of those that are there
        Path("list.json").write_text(printed)
        Path("lines.jsonl").write_text("\n".join(map(json.dumps, json.loads(printed))))
        for file in ("list.json", "lines.jsonl"):
            code, out, err = run("--prompts", file)
            assert (code, out) == (0, "") and "all 2 pictures are there already" in err


def test_a_list_of_objects_is_read_and_its_mistakes_are_placed():
    templates = _templates('[\n  {"prompt": "a tent", "seed": 9},\n  {"prompt": "[a] house"}\n]\n')
    assert [(t.request.prompt, t.request.seed) for t in templates] == [("a tent", 9), ("[a] house", None)]
    assert [t.request.prompt for t in _templates("[red|blue] tent\n[1, 2]")] == ["[red|blue] tent", "[1, 2]"]
    with pytest.raises(InputError, match=r"prompts\.txt, object 2: it has a setting 'sede'"):
        _templates('[{"prompt": "a tent"}, {"prompt": "a house", "sede": 9}]')


def test_a_line_of_a1111s_script_is_refused():
    with pytest.raises(InputError, match="line 2: a line is a prompt, or JSON such as"):
        _templates('a tent\n--prompt "a house" --steps 3\n')
