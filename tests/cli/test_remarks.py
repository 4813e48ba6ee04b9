"""What a command line says and a picture cannot follow is named in one line, once."""

from pathlib import Path

import pytest

from mlx_sd.cli import flags

pytestmark = pytest.mark.usefixtures("tiny_once")

FAST = ("--steps", 1, "--width", 32, "--height", 32, "--seed", 5, "--output", "a.png")
A1111, PLAIN = "a (red:1.2) tent <lora:style:0.8>", ("--prompt-style", "plain")
REMARKS = {
    ("a tent", "--negative", "rain", "--guidance", 1): "with --guidance 1 there is no guidance, so --negative changes",
    ("a tent", "--guidance-rescale", 0.5, "--guidance", 0): "so --guidance-rescale changes nothing",
    (A1111, *PLAIN): "<lora:style:0.8> in a prompt is text in --prompt-style plain; --lora style:0.8 merges it",
    ("a (red:1.2) tent (in the center)", *PLAIN): "weights such as (red:1.2) are text in --prompt-style plain",
}


@pytest.mark.parametrize("words", REMARKS)
def test_what_changes_nothing_is_named(run, words):
    code, out, err = run(*words, *FAST)
    assert (code, out) == (0, "a.png\n") and REMARKS[words] in err
    assert len(set(err.splitlines())) == err.count("\n")


@pytest.mark.slow
def test_a_usual_command_has_no_remarks(run):
    assert run("a tent (in the center), 16:9, x < 3", "--negative", "rain", *FAST) == (0, "a.png\n", "")


@pytest.mark.slow
def test_a_picture_of_ours_that_is_made_again_has_no_remarks_about_its_prompt(run):
    assert run(A1111, *PLAIN, *FAST)[0] == 0
    assert run("--from-image", "a.png", "--output", "b.png")[2] == ""


def test_a_tilde_is_the_home_folder_where_a_shell_leaves_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/user")
    words = ["--output=~/p/", "--init-image=~/a.png", "--from-image=~/b.png", "--animate=~/c.gif", "--preview=~/d"]
    arguments = flags.parser("x").parse_args(["a tent", *words])
    assert (arguments.output, arguments.init_image) == ("/home/user/p/", "/home/user/a.png")
    assert arguments.from_image == Path("/home/user/b.png")
    assert (arguments.animate, arguments.preview) == ("/home/user/c.gif", "/home/user/d")
    assert flags.parser("x").parse_args(["a tent", "--output=a~/b.png"]).output == "a~/b.png"
    assert flags.parser("x").parse_args(["a tent", "--animate"]).animate == ""
