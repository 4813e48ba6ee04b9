"""What clients send becomes requests: every setting can be reached, and no text of theirs is opened as a path."""

import builtins
import io
import os
import re
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd.core.embedded import TINY
from mlx_sd.request import SETTINGS, Request
from mlx_sd.studio.models.catalog import Catalog
from mlx_sd.studio.requests import submission
from mlx_sd.studio.requests.limits import LIMITS
from mlx_sd.studio.requests.shown import shown_text
from mlx_sd.studio.requests.submission import FieldError, field_of, pictures, read_request
from mlx_sd.studio.work import state
from mlx_sd.studio.work.studio import Settings, Studio

NAMES = {description.key or name: name for name, description in SETTINGS.items() if not description.hidden}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Studio that is never started, with one of everything installed."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("models", "loras", "embeddings", "pictures")}
    shutil.copytree(TINY, folders["models"] / "sd15")
    (folders["loras"] / "sub").mkdir()
    for path in ("style.safetensors", "sub/Detail.safetensors"):
        (folders["loras"] / path).write_bytes(b"x" * 10)
    for path in ("plain.safetensors", "easy-neg.safetensors"):
        (folders["embeddings"] / path).write_bytes(b"x" * 10)
    for name, kind in (("canny", "ControlNetModel"), ("sketch", "T2IAdapter"), ("own-vae", "AutoencoderKL")):
        (folders["models"] / name).mkdir()
        (folders["models"] / name / "model_index.json").write_text("{}")
        (folders["models"] / name / "config.json").write_text(f'{{"_class_name": "{kind}"}}')
    made = Studio(
        Settings(
            folders["pictures"],
            model_folders=(folders["models"],),
            lora_folder=folders["loras"],
            embeddings_folder=folders["embeddings"],
        )
    )
    made.gallery = made.uploads = Pictures(folders["pictures"])
    (folders["pictures"] / "a.png").write_bytes(b"x")
    yield made
    made.journal.close()


class Pictures:
    """Stands for the gallery and the uploads: a table of names."""

    def __init__(self, folder):
        self.folder = folder

    def path(self, name):
        return self.folder / name if name == "a.png" else None


def entry(entries, name):
    return next(e for e in entries if e.name == name)


def values(server):
    """A value for every setting, by its name in JSON."""
    catalog = server.catalog
    return {
        "prompt": "a tent",
        "class": 3,
        "negative": "grey",
        "seed": 5,
        "model": entry(catalog.models(), "sd15").id,
        "dtype": "float32",
        "loras": [{"id": entry(catalog.loras(), "style").id, "scale": 0.5}],
        "quantize": "8",
        "speed": "fast",
        "steps": 7,
        "guidance": 3.5,
        "guidance_rescale": 0.5,
        "rng": "torch",
        "sampler": "Euler a",
        "schedule": "karras",
        "width": 64,
        "height": 72,
        "clip_skip": 1,
        "deepcache": "3:1",
        "tgate": "3",
        "freeu": "1.5,1.6,0.9,0.2",
        "refine_at": 0.7,
        "tile": 256,
        "denoise_tile": 64,
        "prompt_style": "comfy",
        "embeddings": [{"id": entry(catalog.embeddings(), "plain").id, "name": "word"}],
        "prompt_2": "b",
        "negative_2": "c",
        "original_size": "1024x768",
        "target_size": "512x512",
        "crop": "0x64",
        "pag": 3.0,
        "pag_adaptive": 0.1,
        "guidance_interval": "0-0.6",
        "adaptive_guidance": 0.99,
        "unconditional_refresh": 2,
        "token_downsampling": "2:1:0.7",
        "tuning": "piece=65536",
        "temperature": 0.7,
        "hires": "2:3:0.5",
        "hires_mode": "lanczos",
        "init_image": "gallery:a.png",
        "strength": 0.5,
        "mask": "upload:a.png",
        "mask_blur": 4.0,
        "only_masked": True,
        "padding": 8,
        "image_guidance": 1.2,
        "noise_level": 10,
        "extend": "left=8",
        "lora_mode": "runtime",
        "vae": entry(catalog.vaes(), "own-vae").id,
        "adapters": [{"model": entry(catalog.adapters(), "sketch").id, "image": "gallery:a.png", "scale": 0.5}],
        "adapter_factor": 0.5,
        "controls": [
            {
                "model": entry(catalog.control_networks(), "canny").id,
                "image": "upload:a.png",
                "scale": 0.9,
                "start": 0.1,
                "end": 0.8,
                "maker": "canny",
            }
        ],
        "guess_mode": True,
        **dict.fromkeys(("eta", "gamma", "rho", "s_churn", "s_tmin", "s_tmax", "s_noise"), 0.5),
        "order": 2,
        "kind": "bh2",
        "corrector": True,
    }


# Without one installed here, and refused for everybody.
ELSEWHERE = {"refiner", "ip_adapters", "ip_encoder", "coreml"}


def test_every_setting_can_be_reached(server):
    wanted_values = values(server)
    assert wanted_values.keys() == NAMES.keys() - ELSEWHERE
    for key, value in wanted_values.items():
        fields, errors = submission.read_fields(server, {key: value})
        assert not errors, (key, errors)
        assert fields[NAMES[key]] not in (None, ()), key
    described = {description["name"] for description in state.of(server)["settings"]}
    assert described == NAMES.keys() - {"coreml"}


def test_a_request_is_shown_so_that_it_can_be_sent_again(server):
    skipped = {"class", "speed", "tgate"}  # that do not go with the others
    request = read_request(server, {k: v for k, v in values(server).items() if k not in skipped})
    shown = server.show(request)
    assert read_request(server, shown) == request
    text = str(shown)
    assert str(server.folder) not in text and "/" not in text.replace("1024x768", ""), text


def test_settings_that_are_left_out_are_the_defaults(server):
    assert read_request(server, {"prompt": "x", "steps": None, "model_hash": "abc"}) == Request(prompt="x")


PATHS = ["/etc/passwd", "../style", "~/style", "style.safetensors", "./sub/Detail", "C:\\style", "http://x/y", "a/b"]
NAMED = ["model", "refiner", "vae", "ip_encoder", "hires_mode", "init_image", "mask", "coreml"]


@pytest.mark.parametrize("key", NAMED)
@pytest.mark.parametrize("path", [*PATHS, "upload:../a.png", "gallery:/a.png", "nul\0", "x" * 5000])
def test_no_setting_takes_a_path(server, key, path):
    with pytest.raises(FieldError) as error:
        read_request(server, {"prompt": "x", key: path})
    assert error.value.field == key and "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "form",
    [
        lambda path: {"loras": [path]},
        lambda path: {"loras": [{"path": path}]},
        lambda path: {"loras": f"{path}:0.5"},
        lambda path: {"embeddings": [{"id": path}]},
        lambda path: {"controls": [{"model": path, "image": "gallery:a.png"}]},
        lambda path: {"adapters": [{"model": "sketch", "image": path}]},
        lambda path: {"controls": [f"{path}:{path}"]},
        lambda path: {"ip_adapters": [{"model": path, "images": [path]}]},
    ],
)
def test_no_entry_takes_a_path(server, form, path):
    values = form(path)
    with pytest.raises(FieldError) as error:
        read_request(server, {"prompt": "x"} | values)
    assert error.value.field == next(iter(values))


def test_a_schedule_is_no_file(server):
    for text in ("steps.json", "/tmp/STEPS.JSON ", "a/b.json"):
        with pytest.raises(FieldError, match="files are not read"):
            read_request(server, {"prompt": "x", "schedule": text})
    assert read_request(server, {"prompt": "x", "schedule": "timesteps=999,500,10"}).schedule


def test_loras_in_prompts_are_those_of_the_catalogue(server):
    style, detail = (entry(server.catalog.loras(), name) for name in ("style", "sub/Detail"))
    request = read_request(server, {"prompt": "a tent <lora:style:0.5> <lora:Detail>"})
    assert request.prompt == "a tent"
    assert [(lora.path, lora.scale) for lora in request.loras] == [(str(style.path), 0.5), (str(detail.path), 1.0)]
    for name in (*PATHS, "sub/../style", "unknown"):
        with pytest.raises(FieldError) as error:
            read_request(server, {"prompt": f"a tent <lora:{name.replace(':', '')}:1>"})
        assert error.value.field == "prompt"
    plain = read_request(server, {"prompt": "a <lora:../x:1>", "prompt_style": "plain"})
    assert plain.loras == () and plain.prompt == "a <lora:../x:1>"


def test_embeddings_in_prompts_are_those_of_the_catalogue(server):
    def named(text, **more):
        return [e.name for e in read_request(server, {"prompt": text, **more}).embeddings]

    assert named("a tent") == named("a plain tent") == named("embedding:../plain") == named("</etc/passwd>") == []
    assert named("<plain>") == named("embedding:plain, a tent") == ["plain"]
    assert named("a tent", negative="easy-neg") == ["easy-neg"] and named("uneasy-neg") == named("easy-negs") == []


def test_wildcards_are_words_of_the_prompt_and_no_files(server):
    requests = pictures(read_request(server, {"prompt": "a {red|blue} __colour__ tent", "seed": 1}), 20)
    assert {r.prompt for r in requests} == {f"a {c} __colour__ tent" for c in ("red", "blue")}
    assert [r.seed for r in requests] == [*range(1, 21)]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"width": 4096, "height": 4096}, "width"),
        ({"height": LIMITS.side + 8}, "height"),
        ({"steps": LIMITS.steps + 1}, "steps"),
        ({"width": 2048, "height": 2048, "hires": "8"}, "hires"),
        ({"hires": "2:5000"}, "hires"),
        ({"prompt": "x" * (LIMITS.text + 1)}, "prompt"),
        ({"sampler": "x" * 5000}, "sampler"),
        ({"loras": [{"id": "style"}] * (LIMITS.entries + 1)}, "loras"),
        ({"seed": 2**32}, "seed"),
        ({"steps": True}, "steps"),
        ({"guidance": float("inf")}, "guidance"),
        ({"guidance": 10**400}, "guidance"),
        ({"stepz": 3}, "stepz"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"crop": [1]}, "crop"),
        ({"deepcache": {"a": 1}}, "deepcache"),
    ],
)
def test_what_is_too_large_or_makes_no_sense_is_said_at_its_field(server, values, field):
    with pytest.raises(FieldError) as error:
        read_request(server, {"prompt": "x"} | values)
    assert error.value.field == field and "\n" not in str(error.value)


@pytest.mark.parametrize("count", [0, -1, LIMITS.count + 1, True, "2", 1.5, None])
def test_the_count_is_a_small_whole_number(server, count):
    with pytest.raises(FieldError) as error:
        pictures(Request(prompt="x"), count)
    assert error.value.field == "count"


def test_errors_of_the_library_name_their_fields():
    for message, field in (
        ("width must be a positive multiple of 8, not 65", "width"),
        ("the T-GATE: leave --tgate out", "tgate"),
        ("clip skip must be from 0 to 1", "clip_skip"),
        ("--init-image and --mask", "init_image"),
        ("class 3 is unknown", "class"),
        ("something else", None),
    ):
        assert field_of(message) == field


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(NAMES)), _JSON)
def test_whatever_is_sent_is_a_request_or_an_error_at_a_field(server, key, value):
    opened = []
    real = io.open

    def watch(file, *arguments, **options):
        opened.append(file)
        return real(file, *arguments, **options)

    builtins.open, before = watch, builtins.open
    try:
        request = read_request(server, {"prompt": "x", key: value})
        server.show(request)
    except FieldError as error:
        assert "\n" not in str(error)
    finally:
        builtins.open = before
    assert opened == []


def test_ids_are_stable_safe_in_urls_and_distinct(server):
    again = Catalog(server.settings.model_folders, server.settings.lora_folder, server.settings.embeddings_folder)
    both = [catalog.to_json() for catalog in (server.catalog, again)]
    assert both[0] == both[1]
    ids = [e["id"] for entries in both[0].values() for e in entries]
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", id) and ".." not in id for id in ids)
    assert all(len({e["id"] for e in entries}) == len(entries) for entries in both[0].values())
    assert os.sep not in str(both[0]).replace("sub/Detail", "")


def test_the_catalogue_names_what_lies_in_its_folders(server):
    catalog = server.catalog
    models = [e.name for e in catalog.models() if e.place not in ("cache", "hub")]  # these are of all tests
    assert models == ["tiny", "tiny-classes", "tiny-tokens", "sd15"]
    assert {e.name for e in catalog.loras()} == {"style", "sub/Detail", "tiny-evening", "tiny-four-steps"}
    for name in ("sd15", entry(catalog.models(), "sd15").id):
        assert catalog.model(name).family == "Stable Diffusion 1"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("/home/me/models/sd15 is quantized", "sd15 is quantized"),
        ("in /a/b.safetensors: no such tensor; see /c/d", "in b.safetensors: no such tensor; see d"),
        ("'/a/b c' is there 2 times", "'b c' is there 2 times"),
        ("1/2 of a and b/c, http://x.y/z", "1/2 of a and b/c, http://x.y/z"),
        ("steps must be from 1", "steps must be from 1"),
    ],
)
def test_messages_name_files_without_their_folders(message, shown):
    assert shown_text(message) == shown


def test_a_folder_with_spaces_is_taken_out_of_messages(tmp_path):
    folder = tmp_path / "my own pictures"
    assert shown_text(f"{folder}/a.png cannot be written", (folder,)) == "a.png cannot be written"
