"""The short names of python -m mlx_sd.generate are taken by python -m convert too."""

from convert.__main__ import parser


def test_short_names_are_those_of_generate():
    arguments = parser().parse_args(["-m", "tiny", "-o", "models/tiny", "-q", "8"])
    assert (arguments.model, str(arguments.out), arguments.quantize) == ("tiny", "models/tiny", "8")
    assert str(parser().parse_args(["--output", "models/tiny"]).out) == "models/tiny"
