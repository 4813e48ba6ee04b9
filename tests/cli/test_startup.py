"""One picture of a checkpoint that has been converted imports nothing that only other work needs."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
# What conversion, downloads, one schedule and progress bars on a terminal need; together they take half a second.
UNNEEDED = ("convert", "coreml", "huggingface_hub", "mlx.optimizers", "mlx_sd.preview", "scipy", "torch", "tqdm")
# What only processes need that mlx.launch starts.
UNNEEDED += ("mlx_sd.ranks.launch", "mlx_sd.ranks.watch", "mlx_sd.ranks.datagrams", "mlx_sd.cli.rank_making")
CODE = """
import sys
from mlx_sd.cli.generate import main
code = main(["a tent", "--seed", "0", "--steps", "1", "--width", "64", "--height", "64", "--output", "a.png"])
print(*sorted(set(sys.argv[1:]) & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


def test_a_picture_of_the_embedded_checkpoint_imports_no_converter(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", CODE, *UNNEEDED], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        if not done.stderr.strip():
            break  # else this run converted the checkpoint, and the next does not
    assert done.stderr.strip() == ""
