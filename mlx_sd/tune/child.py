"""A process that measures a model in the environment that it was started in, for mlx-sd tune.

It is started with a JSON object: model, dtype, quantize, width, height and tuning. Each line of its standard input is a
question, "step" or "digest", which it answers with one line of JSON. It ends with its input.
"""

import json
import sys

from ..networks.tuning import DEFAULT
from ..pipeline import StableDiffusion
from ..tuning.choices import parse_tuning
from .meter import UNetMeter, request_for


def main() -> int:
    """Loads the model and answers questions until there are no more."""
    settings = json.loads(sys.argv[1])
    sd = StableDiffusion.load(settings["model"], settings["dtype"], quantize=settings["quantize"])
    meter = UNetMeter(sd, request_for(sd.model, settings["width"], settings["height"]))
    tuning = parse_tuning(settings["tuning"]) if settings["tuning"] else DEFAULT
    for line in sys.stdin:
        answer = meter.digest(tuning) if line.strip() == "digest" else meter.step(tuning)
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
