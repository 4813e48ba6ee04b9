"""Makes tests/metadata/earlier again: pictures of an earlier version, with its code and the weights embedded now.

`python -m tests.support.earlier`, whenever the embedded checkpoint has changed.
"""

import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mlx_sd.core.embedded import TINY

ROOT = Path(__file__).parents[2]
COMMIT = "cbcf6be"  # metadata lacked fields then that they have now
SIZE = "--dtype float32 --width 32 --height 32"
PICTURES = {
    "karras": "'a red tent, 海' --negative 'rain, \"fog\"' --seed 7 --steps 4 --guidance 7.5 --sampler euler "
    "--schedule karras",
    "reuse": "'a tent' --seed 3 --steps 4 --guidance 5 --sampler heun --schedule sgm_uniform --clip-skip 1 "
    "--deepcache 2:1 --freeu structure:1.5,1.6,0.9,0.2",
    "churn": "'a house' --seed 0 --guidance 7.5 --sampler edm --sigmas 9,3,1,0 --tgate 2,5,1,2 --s-churn 3",
}


def main() -> None:
    """Replaces the pictures in tests/metadata/earlier."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        subprocess.run(["git", "worktree", "add", "--detach", tree, COMMIT], cwd=ROOT, check=True)
        try:
            shutil.rmtree(tree / "mlx_sd" / "tiny")
            shutil.copytree(TINY, tree / "mlx_sd" / "tiny")
            for name, flags in PICTURES.items():
                output = ROOT / "tests" / "metadata" / "earlier" / f"{name}.png"
                words = [*shlex.split(f"{flags} {SIZE}"), "--output", str(output)]
                subprocess.run([sys.executable, "-m", "mlx_sd.generate", *words], cwd=tree, check=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
