"""The command mlx-sd: commands by name, prompts by any other word, and the scripts that complete both."""

import shutil
import subprocess
import sys
from importlib import import_module

import pytest

from mlx_sd.cli import completion, main
from mlx_sd.core import parser
from tests.support.effort import slow_but


@pytest.fixture
def started(monkeypatch):
    """started(*words) -> the command whose main runs, and its words."""
    calls = []
    for name, entry in main.COMMANDS.items():
        module = import_module(entry.module)
        monkeypatch.setattr(module, "main", lambda words, name=name: calls.append((name, list(words))) or 0)

    def call(*words):
        calls.clear()
        code = main.main(words)
        return calls[0] if calls else code

    return call


@pytest.mark.parametrize("name", main.COMMANDS)
def test_a_first_word_that_names_a_command_runs_it(started, name):
    assert started(name, "--steps", "3") == (name, ["--steps", "3"])
    assert started("help", name) == (name, ["--help"])


@pytest.mark.parametrize(
    "first", ["a red tent", "tent", "beach", "bunch", "ghosts", "--steps", "-W", "", "Zelt", "general", "-"]
)
def test_any_other_first_word_belongs_to_a_picture(started, first):
    assert started(first, "x") == ("generate", [first, "x"])


def test_a_command_may_be_a_prompt_behind_generate(started):
    assert started("generate", "bench") == ("generate", ["bench"])


@pytest.mark.parametrize("slip", ["genrate", "generat", "Generate", "model", "convrt", "corml", "docter", "bech"])
def test_a_slip_of_a_command_is_no_prompt(started, capsys, slip):
    if slip == "docter":  # two letters changed could be a word of its own
        assert started(slip)[0] == "generate"
        return
    assert started(slip, "--steps", "3") == 2
    line = capsys.readouterr().err
    assert line.startswith(f"mlx-sd: no command {slip!r}; did you mean '") and line.count("\n") == 1
    assert line.endswith(f"For a picture of it: python -m mlx_sd.generate {slip}\n")


def test_nothing_lists_the_commands(capsys):
    assert main.main([]) == main.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text and entry.summary in text for name, entry in main.COMMANDS.items())


@pytest.mark.parametrize(
    ("started_as", "expected"),
    [
        ("/usr/bin/mlx-sd", "mlx-sd generate"),
        ("/x/mlx_sd/generate/__main__.py", "python -m mlx_sd.generate"),
    ],
)
def test_messages_name_the_command_as_it_was_started(monkeypatch, started_as, expected):
    monkeypatch.setattr(sys, "argv", [started_as])
    assert parser.program("mlx_sd.generate") == expected


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """bash(*words) -> what completes the last of them."""
    file = tmp_path_factory.mktemp("completion") / "mlx-sd"
    file.write_text(completion.script("bash"), encoding="utf-8")

    def complete(*words):
        quoted = " ".join(f"'{word}'" for word in words)
        code = f"source {file}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _shtab_mlx_sd; "
        code += 'printf "%s\\n" "${COMPREPLY[@]}"'
        return subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout.split()

    complete.file = file
    return complete


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("mlx-sd", "gen"), "generate"),
        (("mlx-sd", "--ste"), "--steps"),
        (("mlx-sd", "generate", "--negative-"), "--negative-2"),
        (("mlx-sd", "generate", "--sampler", "dpmpp_2m_s"), "dpmpp_2m_sde"),
        (("mlx-sd", "generate", "--schedule", "karr"), "karras"),
        (("mlx-sd", "generate", "--hires-mode", "lanc"), "lanczos"),
        (("mlx-sd", "bench", "lat"), "latency"),
        (("mlx-sd", "convert", "--dtype", "bf"), "bfloat16"),
        (("mlx-sd", "models", "rem"), "remove"),
    ],
)
def test_bash_completes_commands_options_and_names(bash, words, expected):
    if expected == "bfloat16":
        words = (*words[:-1], "bfl")
    assert bash(*words) == [expected]


def test_the_scripts_are_the_shells(bash):
    for shell in completion.SHELLS:
        if shutil.which(shell):
            file = bash.file.with_suffix(f".{shell}")
            file.write_text(completion.script(shell), encoding="utf-8")
            subprocess.run([shell, "-n", str(file)], check=True)
    assert completion.script("zsh").startswith("#compdef mlx-sd\n")


@pytest.mark.parametrize("words", slow_but([("models",)], [("models",), ()]))
def test_what_makes_no_picture_needs_no_mlx(words):
    code = (
        "import atexit, sys; atexit.register(lambda: print('mlx.core' in sys.modules, file=sys.stderr));"
        "from mlx_sd.cli.main import main; main(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stderr.split()[-1] == "False"
