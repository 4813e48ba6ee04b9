"""Proofs that run once at their full number of repetitions, and in CI at a share of it."""

import datetime
import importlib.metadata
import json
import platform
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "proofs"


class Proof:
    """One proof's share of its repetitions, and the record of its result."""

    def __init__(self, name: str, share: float):
        if not 0 < share <= 1:
            raise ValueError(f"--share must be above 0, to 1, not {share}")
        self.name, self.share = name, share
        self.start = time.monotonic()

    def count(self, repetitions: int) -> int:
        """Returns how many of the `repetitions` run now: the share of them, at least one."""
        return max(1, round(repetitions * self.share))

    def record(self, **result: Any) -> None:
        """Writes the result, the duration and the machine to tests/proofs/NAME.json, if all repetitions have run."""
        if self.share < 1:
            return
        content = {
            "proof": self.name,
            "result": result,
            "seconds": round(time.monotonic() - self.start, 1),
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.system()} {platform.machine()}",
            "versions": {"python": platform.python_version(), "mlx": importlib.metadata.version("mlx")},
        }
        FOLDER.mkdir(exist_ok=True)
        path = FOLDER / f"{self.name}.json"
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
