"""Every mistake of the table makes a test of the Swift package fail: the tests would notice it in the sources."""

import pytest

from tests.support import planted_mistakes, swift_toolchain


def test_the_table_fits_the_sources():
    assert planted_mistakes.table()


def test_a_mistake_whose_place_is_gone_is_told():
    mistake = planted_mistakes.Mistake("m", "Package.swift", "no such text", "", "X")
    with pytest.raises(planted_mistakes.Unusable, match="0 times, not once"):
        planted_mistakes.planted("let x = 1", mistake)


@pytest.mark.proof
def test_every_planted_mistake_fails_a_swift_test(proof):
    try:
        swift_toolchain.find()
    except swift_toolchain.NoToolchain as error:
        pytest.skip(str(error))
    if not (swift_toolchain.ROOT / swift_toolchain.GOLDENS).is_dir():
        swift_toolchain.write_goldens()
    mistakes = planted_mistakes.table()
    count = proof.count(len(mistakes))
    some = mistakes[:: -(-len(mistakes) // count)]
    assert planted_mistakes.run(some) == []
    proof.record(mistakes=len(some), noticed=len(some))
