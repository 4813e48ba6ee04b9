"""The page's files are served by their names alone, and ask for nothing that is not there or elsewhere."""

import re

import pytest

from mlx_sd.studio.routes.pages import FILES, FOLDER
from tests.studio.galleries import Caller, studio

IMPORT = re.compile(r"""(?:from|import)\s+["']\./([\w.]+)["']""")
ADDRESS = re.compile(r"https?://[\w.]+")
NAMES_ONLY = {"http://www.w3.org"}  # the name of SVG's elements, which is not asked for


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    with studio(tmp_path_factory.mktemp("pictures")) as opened:
        yield Caller(opened)


def texts(suffix):
    return {name: path.read_text(encoding="utf-8") for name, path in FILES.items() if path.suffix == suffix}


def test_every_file_of_the_page_is_served_under_its_type(call):
    assert {path.name for path in FOLDER.iterdir()} == set(FILES)
    types = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
    for name, path in FILES.items():
        answer = call("GET", f"/page/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].partition(";")[0] == types[path.suffix]
        assert answer.content == path.read_bytes()
    assert call("GET", "/").content == FILES["index.html"].read_bytes()


@pytest.mark.parametrize("name", ("nothing.js", "pages.py", "..%2fapp.py", "%2e%2e", "", "index.html%00", "INDEX.HTML"))
def test_no_other_name_is_served(call, name):
    assert call("GET", f"/page/{name}").status_code in (400, 404)


def test_what_the_page_names_is_there():
    named = set(re.findall(r'(?:src|href)="/page/([\w.]+)"', texts(".html")["index.html"]))
    named |= {name for text in texts(".js").values() for name in IMPORT.findall(text)}
    assert named <= set(FILES)
    assert set(FILES) - named == {"index.html"}, "files that nothing uses"


def test_the_page_asks_no_other_machine_for_anything():
    for name in FILES:
        assert set(ADDRESS.findall(FILES[name].read_text(encoding="utf-8"))) <= NAMES_ONLY, name


def test_the_page_keeps_its_content_security_policy():
    for name, text in texts(".html").items():
        assert not re.search(r"<script(?![^>]*\ssrc=)|\sstyle=|\son\w+=|<style", text), name
    for name, text in texts(".js").items():
        assert not re.search(r"\beval\(|new Function|innerHTML|insertAdjacentHTML|document\.write", text), name
        assert 'setAttribute("style"' not in text, name


def test_files_of_the_page_are_short():
    lengths = {name: len(text.splitlines()) for suffix in (".js", ".css") for name, text in texts(suffix).items()}
    assert {name: length for name, length in lengths.items() if length >= 400} == {}
