"""Options that contradict each other or the model are refused before anything is written."""

import pytest

from coreml.__main__ import main
from coreml.lowering.attention import ATTENTIONS
from coreml.plan import Options
from mlx_sd.core.errors import InputError

MISTAKES = {
    "--attention fused": "needs --target iOS18",
    "--unet functions": "need --target iOS18",
    "--unet chunks,halves": "the same names",
    "--compress zip": "unknown compression 'zip'; there are palettize1",
    "--compress palettize3": "palettize3 needs --target iOS18, not iOS16",
    "--compress int4:32 --target iOS17": "int4:32 needs --target iOS18, not iOS17",
    "--compress nowhere.json": "nowhere.json is missing",
    "--unet some": "one of full, chunks, halves, functions",
    "--width 72 --height 64": "multiples of 64, not 72",
    "--size 64": "WIDTHxHEIGHT",
    "--size 64x64 --size 64x128": "add --unet functions",
    "--size 64x64 --size 64x64 --unet functions --target iOS18": "given twice",
    "--size 64x64 --width 64": "not both",
    "--branch 12": "no branch 12 in this UNet; it has 0 to 11",
    "--unet functions --target iOS18 --split": "cannot be split",
    "--model nowhere": "nowhere",
}


@pytest.mark.parametrize("flags", MISTAKES)
def test_a_mistake_is_named_in_one_line_and_leaves_nothing(flags, family, tmp_path, capfd):
    arguments = ["--model", family("sd1").model.name, "--out", str(tmp_path / "out"), *flags.split()]
    assert main(arguments) == 2
    err = capfd.readouterr().err
    assert MISTAKES[flags] in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_choices_are_those_of_the_tables():
    assert set(ATTENTIONS) == {"split-einsum", "original", "fused"}
    with pytest.raises(InputError, match="float16, float32"):
        Options(dtype="bfloat16")
