"""The guide's pictures are those of the commands that its pages show."""

import pytest
from PIL import Image

from bench.report import pages
from mlx_sd.core.errors import Failure, InputError

PAGES = [page for page in sorted(pages.GUIDE.glob("*.md")) if pages.blocks(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pictures_are_of_these_commands_and_of_this_checkpoint(page):
    """To make them again: python -m bench pages."""
    for block in pages.blocks(page):
        with Image.open(page.parent / block.picture) as image:
            assert image.text[pages.MARK] == block.origin, block.picture
        assert f"]({block.picture})" in page.read_text(encoding="utf-8")
        assert block.words()


def page_of(tmp_path, block):
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n<!-- picture: pictures/a.png -->\n{block}\n\n![a](pictures/a.png)\n")
    return page


def test_a_block_is_run_and_its_picture_kept(tmp_path):
    code = 'from PIL import Image\n\nImage.new("L", (3, 2), 7).save("a.png")'
    page = page_of(tmp_path, f"```python\n{code}\n```")
    pages.write(page)
    with Image.open(tmp_path / "pictures" / "a.png") as image:
        assert (image.size, image.getpixel((0, 0))) == ((3, 2), (7, 7, 7))
        assert image.text[pages.MARK] == pages.blocks(page)[0].origin
    assert pages.Block("a.png", "python", code + "\n").origin != pages.Block("a.png", "python", code).origin


@pytest.mark.parametrize(
    ("block", "kind", "message"),
    [
        ("```sh\nrm -r x\n```", InputError, "its block runs 'rm -r', not python -m"),
        ("```sh\npython -m mlx_sd.generate --steps x\n```", Failure, "failed: .*--steps"),
        ("```python\npass\n```", Failure, "wrote no a.png"),
    ],
)
def test_a_block_that_makes_no_picture_is_named(tmp_path, block, kind, message):
    with pytest.raises(kind, match=message):
        pages.write(page_of(tmp_path, block))
    assert not (tmp_path / "pictures").exists()
