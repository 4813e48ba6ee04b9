"""Networks beside a checkpoint from the hub: only their own files are downloaded, and what is wrong is one line."""

import pytest

from convert.sources import ip_adapter, single_network, t2i_adapter
from mlx_sd.core.errors import InputError
from tests.support import adapters_beside, autoencoders, hub_server, image_prompts


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """hub(folder) serves it as owner/name."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda folder: stack.enter_context(hub_server.alone(folder, tmp_path / "home", monkeypatch))


def downloads(running):
    return {path.split("/resolve/")[1].partition("/")[2] for _, path, _ in running.requests if "/resolve/" in path}


def test_a_network_alone_is_its_config_and_its_weights(hub, tmp_path):
    folder = autoencoders.write_folder(tmp_path / "taesd")
    (folder / "README.md").write_text("words")
    (folder / "taesd_decoder.safetensors").write_bytes(b"another form")
    running = hub(folder)
    path = single_network.locate("owner/name")
    assert (path / "diffusion_pytorch_model.safetensors").read_bytes()
    assert downloads(running) == {"config.json", "diffusion_pytorch_model.safetensors"}
    running.trouble = "broken"  # from then on the hub's cache has it
    assert single_network.locate("owner/name") == path


def test_a_short_name_means_a_repository(hub, tmp_path):
    hub(adapters_beside.write_folder(tmp_path / "sketch", "full"))
    assert t2i_adapter.open_adapter("owner/name").config["adapter_type"] == "full_adapter"
    assert single_network.locate("mine", {"mine": "owner/name"}).is_dir()


def test_a_repository_of_pickles_or_of_nothing_is_one_line(hub, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    running = hub(folder)
    with pytest.raises(InputError, match=r"owner/name holds no single network \(config.json and diffusion"):
        single_network.fetch("owner/name")
    running.files["diffusion_pytorch_model.bin"] = b"x"
    with pytest.raises(InputError, match="owner/name has only pickled weights"):
        single_network.fetch("owner/name")


@pytest.mark.parametrize(
    ("file", "encoder"),
    [
        ("models/plus.safetensors", "models/image_encoder"),
        ("sdxl_models/plus.safetensors", "sdxl_models/image_encoder"),
        ("sdxl_models/plus_sdxl_vit-h.safetensors", "models/image_encoder"),
    ],
)
def test_an_ip_adapter_comes_with_its_image_encoder(file, encoder, hub, family, tmp_path):
    folder = tmp_path / "repository"
    image_prompts.write(folder / file, "plus", family("sd1").unet)
    for place in ("models", "sdxl_models"):
        if not (folder / place / "image_encoder").exists():
            image_prompts.write_encoder(folder / place / "image_encoder")
    running = hub(folder)
    name = f"owner/name/{file}"
    assert ip_adapter.open_ip_adapter(name).config["kind"] == "plus"
    opened = ip_adapter.open_image_encoder(None, name, None)
    assert str(opened.files[0]).endswith(f"{encoder}/model.safetensors")
    assert downloads(running) == {file, f"{encoder}/config.json", f"{encoder}/model.safetensors"}


def test_a_file_that_is_not_there_is_one_line(hub, tmp_path):
    hub(autoencoders.write_folder(tmp_path / "x"))
    with pytest.raises(InputError, match=r"owner/name has no file models/none\.safetensors on the hub"):
        ip_adapter.open_ip_adapter("owner/name/models/none.safetensors")
