"""The process that runs one asset in Apple's CPU runtime: this file, started by `runtime`.

Neither MLX nor mlx_sd is imported here: both bring libraries of their own, and a damaged asset ends this process in
native code. Requests come on the standard input and answers go to the standard output, each a line of JSON and then the
bytes of the arrays that it lists. What native code prints there by itself goes to the standard error.
"""

import asyncio
import json
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

Arrays = Mapping[str, np.ndarray]


def send(stream: IO[bytes], message: Mapping[str, Any], arrays: Arrays) -> None:
    """Writes a message with arrays, by name."""
    ports = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
    stream.write(json.dumps({**message, "arrays": ports}).encode() + b"\n")
    for array in arrays.values():
        stream.write(np.ascontiguousarray(array).tobytes())
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Reads a message and its arrays; None where the other side has ended."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    message = json.loads(line)
    arrays = {}
    for name, dtype, shape in message["arrays"]:
        count = int(np.prod(shape))
        data = stream.read(count * np.dtype(dtype).itemsize)
        if len(data) < count * np.dtype(dtype).itemsize:
            return None
        arrays[name] = np.frombuffer(data, dtype).reshape(shape)
    return message, arrays


def end_with(parent: int, scratch: str | None = None) -> None:
    """Ends this process as soon as its parent has ended, however that did.

    parent: the end for reading of a pipe whose other end the parent alone holds, and into which nothing is written.
    scratch: a folder that is removed before.
    """

    def wait() -> None:
        """Waits for the end of the parent, in a thread of its own."""
        os.read(parent, 1)
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


async def _serve(path: Path, requests: IO[bytes], answers: IO[bytes]) -> None:
    from coreai.authoring import AIModelAsset

    if not AIModelAsset.is_valid(path):
        send(answers, {"error": "it is no asset"}, {})
        return
    try:
        asset = AIModelAsset.load(path)
        async with asset.executable() as model:
            functions = {name: _ports(model.load_function(name).desc) for name in model.function_names}
            send(answers, {"functions": functions}, {})
            while request := receive(requests):
                await _run(model, *request, answers)
    except RuntimeError as error:  # metadata.json that is not JSON
        send(answers, {"error": str(error)}, {})


def _ports(description: Any) -> dict[str, Any]:
    """Returns names, shapes and types of a function's inputs, outputs and states."""
    inputs = {name: description.input_descriptor(name) for name in description.input_names}
    outputs = {name: description.output_descriptor(name) for name in description.output_names}
    states = {name: description.state_descriptor(name) for name in description.state_names}
    return {
        kind: {name: [list(port.shape), port.dtype] for name, port in ports.items()}
        for kind, ports in (("inputs", inputs), ("outputs", outputs), ("states", states))
    }


async def _run(model: Any, request: Mapping[str, Any], arrays: Arrays, answers: IO[bytes]) -> None:
    """Runs a function; the arrays that the request names as states are written in place, and come back too."""
    from coreai.runtime import NDArray

    states = {name: NDArray(np.array(arrays[name])) for name in request["states"]}
    inputs = {name: NDArray(array) for name, array in arrays.items() if name not in states}
    try:
        outputs = await model.load_function(request["function"])(inputs, states)
    except (RuntimeError, KeyError) as error:  # another shape or type than the function has, or no such function
        send(answers, {"error": str(error)}, {})
        return
    results = {name: np.array(array.numpy()) for name, array in {**outputs, **states}.items()}
    send(answers, {}, results)


def main() -> None:
    """Loads the asset whose path is the first argument, and answers requests until there are no more.

    The other arguments, where there are any, are those of `end_with`.
    """
    if len(sys.argv) > 2:
        end_with(int(sys.argv[2]), sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C ends
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a damaged asset aborts: no dump of its weights
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    asyncio.run(_serve(Path(sys.argv[1]), sys.stdin.buffer, answers))


if __name__ == "__main__":
    main()
