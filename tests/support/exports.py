"""Exports that several tests look at: each written once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from coreml import export
from coreml.plan import Options

# Forms of an export that tests share: (family of `families.FAMILIES`, options).
FORMS = {  # the families and dtypes, and between them every form of attention
    "sd1 float32": ("sd1", {"dtype": "float32", "attention": "original"}),
    "sd1 float16": ("sd1", {"dtype": "float16", "attention": "split-einsum"}),
    "sd2 float16": ("sd2v", {"attention": "fused", "target": "iOS18", "unets": ("full",)}),
    "sdxl float16": ("sdxl", {"attention": "split-einsum", "target": "iOS17"}),
}
UNET_AND_TEXT = ("unet", "text_encoder")  # the networks of a generation that ends with latents


@pytest.fixture(scope="session")
def exported(family, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """exported("sd1", dtype="float16", ...) is the folder of that family's tiny checkpoint with those options.

    exported("sd1 float16") is that of a name in FORMS. only=("unet", ...) leaves out the packages of other networks.
    """
    folders: dict[tuple[str, tuple[str, ...], Options], Path] = {}

    def write(name: str, only: tuple[str, ...] = (), **options) -> Path:
        if name in FORMS:
            name, options = FORMS[name]
        key = name, only, Options(**options)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("exports") / name
            with pytest.MonkeyPatch.context() as patch:
                leave_out(patch, only)
                export.export(family(name).model.name, folders[key], key[2], report=lambda line: None)
        return folders[key]

    return write


def leave_out(patch: pytest.MonkeyPatch, only: tuple[str, ...]) -> None:
    """Makes exports write packages of these networks alone, or of all where there are none."""
    plan = export.plan
    patch.setattr(export, "plan", lambda *a: [item for item in plan(*a) if not only or item.part in only])
