"""Where mlx-sd keeps what it converts, and where the hub keeps what it downloads."""

import os
import shutil
from pathlib import Path


def cache_folder() -> Path:
    """Returns the folder of converted checkpoints: the system's for caches, or MLX_SD_CACHE."""
    if folder := os.environ.get("MLX_SD_CACHE"):
        return Path(folder)
    import platformdirs

    return Path(platformdirs.user_cache_dir("mlx-sd"))


def hub_folder() -> Path:
    """Returns the folder of the hub's downloads, which other programs use too."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def free_space(folder: Path) -> int:
    """Returns the bytes that are free where a folder is, or will be: its nearest parent that exists counts."""
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free


def shown(path: Path | str) -> str:
    """Returns a path as text that says nothing private: ~ for the home folder, USER for the user's name elsewhere."""
    text, home = str(path), Path.home()
    if len(home.parts) > 1 and Path(text).is_relative_to(home):
        return str(Path("~", Path(text).relative_to(home)))
    return str(Path(*("USER" if part == home.name else part for part in Path(text).parts)))
