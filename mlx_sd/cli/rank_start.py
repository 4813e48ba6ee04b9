"""What ranks agree on before the first picture: the command, the seeds, all names, the model, and who makes what."""

import base64
import json
import platform
import zlib
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from .. import batching, jobs
from ..core import device
from ..core.errors import Failure, InputError
from ..core.version import VERSION
from ..jobs import State
from ..ranks.exchange import Ranks
from ..request import Request
from .making import Networks, Order, Run, chunks, model_key
from .plan import Draft, Plan
from .prompt_list import STDIN
from .rank_folder import Group

# Settings of a completed request that stand for files -> what they are called where ranks have different ones.
_FILES = {
    "model": "another model",
    "model_hash": "another model",
    "vae_hash": "another autoencoder",
    "refiner_hash": "another refiner",
    "lora_hashes": "other LoRAs",
    "loras": "other LoRAs",
    "init_image_hash": "another image",
    "mask_hash": "another mask",
    "controls": "other control networks",
}
_HERE = ("model", "refiner", "vae", "init_image", "mask")  # names, which may differ where the files are the same


def check_input(arguments: Any) -> None:
    """Raises InputError where the prompts would come from the standard input, which the launcher never ends."""
    if arguments.prompts == STDIN:
        raise InputError("--prompts -: mlx.launch never ends the standard input of its ranks; write them to a file")


def check_command(order: Order, ranks: Ranks) -> None:
    """Raises InputError on all ranks where one would make other pictures: another program, prompts or settings."""
    templates = [(t.request.prompt, t.request.class_label, t.pictures, t.wildcards, t.output) for t in order.templates]
    settings = [t.request.with_values(prompt=None, class_label=None).to_json() for t in order.templates]
    prompts = "another prompt" if order.arguments.prompts is None else "another file of prompts"
    ranks.check_same(
        {
            "another version of mlx-sd": VERSION,
            "another version of MLX": version("mlx"),
            prompts: json.dumps(templates),
            "other settings": json.dumps([settings, {name: str(v) for name, v in vars(order.arguments).items()}]),
        }
    )


def check_devices(ranks: Ranks, same_only: bool, note: Callable[[str], None]) -> None:
    """Notes where ranks compute on different devices; InputError there with same_only."""
    name = device.describe()
    names = [ranks.share_text(name, rank) for rank in range(ranks.size)]
    by_name = {name: [rank for rank in range(ranks.size) if names[rank] == name] for name in names}
    if len(by_name) == 1:
        return
    words = "; ".join(f"{numbered(members)} on {name}" for name, members in by_name.items())
    if same_only:
        raise InputError(f"--same-device-only: {words}; leave the flag or some of the hosts out")
    note(f"{words}: the bytes of their pictures may differ; each records its device")


def shared_draw(ranks: Ranks, draw: Callable[[int], int]) -> Callable[[int], int]:
    """Returns a function that draws a seed on rank 0 for all ranks, which call it together."""

    def drawn(count: int) -> int:
        """Returns the seed of rank 0."""
        return int(ranks.share_text(str(draw(count)) if not ranks.rank else ""))

    return drawn


def numbered(ranks: Sequence[int]) -> str:
    """Returns "rank 1", or "ranks 0, 1 and 3"."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def note_folders(groups: Sequence[Group], folder: Path, note: Callable[[str], None]) -> None:
    """Notes where the ranks do not see one folder, or its locks do not hold, so that each has its own share."""
    size = sum(len(group.ranks) for group in groups)
    if len(groups) > 1:
        apart = " and ".join(numbered(group.ranks) for group in groups)
        note(
            f"{folder} is not one folder for {apart}: each rank makes 1 of {size} batches, and the pictures lie on its "
            "host, with an index of their own; put together, the same command with --index lists all"
        )
    elif not groups[0].locks:
        note(f"one rank does not see the locks of another in {folder}: each makes 1 of {size} batches")


class Decision:
    """The names and states of all pictures, their completed requests, and the batches: one rank decides for all."""

    def __init__(self, plan: Plan, run: Run, ranks: Ranks, arguments: Any, shared: bool):
        """shared: whether all ranks see one folder, in which what is there already needs not be dealt out."""
        self._plan, self._run, self._ranks, self._arguments, self._shared = plan, run, ranks, arguments, shared
        self.networks: tuple[Any, Networks] | None = None  # the last that was loaded, and which it is
        self.chunks: list[list[list[int]]] = []
        self.failures: dict[int, str] = {}  # of ranks that cannot load the model

    def share(self) -> None:
        """Decides on rank 0, and takes over what it has decided on the others.

        With --keep-going, the next rank decides where a model cannot be loaded. InputError for a name that must not be
        replaced, and for settings that make no sense.
        """
        for decider in range(self._ranks.size):
            answer: dict[str, Any] = {}
            if self._ranks.rank == decider:
                try:
                    answer = self._decided()
                except (_Unloadable, Failure) as error:
                    if not self._arguments.keep_going or decider == self._ranks.size - 1:
                        raise InputError(str(error)) if isinstance(error, _Unloadable) else error from None
                    answer = {"failure": str(error)}
            text = self._ranks.share_text(_packed(answer) if answer else "", decider)
            answer = _unpacked(text)
            if "failure" not in answer:
                break
            self.failures[decider] = answer["failure"]
        self.chunks = answer["chunks"]
        if self._ranks.rank != decider:
            self._adopt(answer)

    def load(self, drafts: Sequence[Draft]) -> Networks:
        """Returns the model of some pictures, loaded where it is not yet.

        InputError where it, or a file beside it, is not that of the rank that has decided.
        """
        key = model_key(drafts[0].template)
        if self.networks is None or self.networks[0] != key:
            self.networks = None  # before another takes its memory
            networks = self._run.load(drafts, drafts[0].picture.request.dtype)
            alike = [draft for draft in self._plan.drafts if model_key(draft.template) == key]
            for group, request in self._run.completed(networks, alike):
                self._check(group[0].picture.request, request)
            self.networks = key, networks
        return self.networks[1]

    def inspect(self) -> None:
        """Finds the states of all pictures in the folder of this host, where it is not that of all ranks."""
        for draft in self._plan.drafts:
            draft.state, draft.replaces = State.MISSING, False
            status = jobs.state(draft.job)
            if status is State.OTHER and not self._arguments.overwrite:
                raise InputError(f"{draft.target} is another picture on {platform.node()}; choose another --output")
            if status is not State.CLAIMED:
                draft.replaces = draft.target.exists() and (self._arguments.overwrite or status is State.MISSING)
                draft.state = State.MISSING if draft.replaces else status

    def _decided(self) -> dict[str, Any]:
        drafts = self._plan.drafts
        for key, members in groupby(drafts, lambda draft: model_key(draft.template)):
            group = list(members)
            self.networks = None
            try:
                networks = self._run.load(group)
            except InputError as error:
                raise _Unloadable(str(error)) from None
            self.networks = key, networks
            self._run.decide(networks, group)
            listed = [draft for draft in group if not (self._shared and draft.state is State.DONE)]
            for chunk in chunks(listed, self._arguments.batch):
                self.chunks.append([[chunk[i].picture.number - 1 for i in batch] for batch in self._cut(chunk)])
        requests = [draft.picture.request.to_json() for draft in _firsts(drafts)]
        return {
            "targets": [str(draft.target) for draft in drafts],
            "states": [draft.state.value for draft in drafts],
            "replaces": [draft.replaces for draft in drafts],
            "requests": requests,
            "chunks": self.chunks,
        }

    def _cut(self, chunk: Sequence[Draft]) -> list[list[int]]:
        """Returns the indices of pictures that one process would put through the UNet together."""
        if self._arguments.batch == 1:
            return [[i] for i in range(len(chunk))]
        assert self.networks is not None
        return batching.batches(
            self.networks[1].sd.model, [draft.job.request for draft in chunk], self._arguments.batch
        )

    def _adopt(self, answer: dict[str, Any]) -> None:
        drafts = self._plan.drafts
        targets, states = answer["targets"], answer["states"]
        requests = iter(answer["requests"])
        for _, members in groupby(drafts, lambda draft: draft.template):
            request = Request.from_json(next(requests), "the settings of another rank")
            for draft in members:
                number = draft.picture.number - 1
                draft.picture = draft.picture._replace(request=request)
                draft.target = type(draft.target)(targets[number])
                draft.state, draft.replaces = State(states[number]), answer["replaces"][number]

    def _check(self, expected: Request, request: Request) -> None:
        """Raises InputError where this rank would make another picture than the one that was decided."""
        if jobs.same_picture(expected, request):
            return
        before, here = expected.to_json(), request.to_json()
        names = [name for name in before.keys() | here.keys() if before.get(name) != here.get(name)]
        words = [_FILES[name] for name in _FILES if name in names and name not in _HERE]
        raise InputError(f"it has {words[0] if words else 'other files'} than the rank that decides; all need the same")


class _Unloadable(Exception):
    """A model cannot be loaded."""


def _firsts(drafts: Sequence[Draft]) -> Iterator[Draft]:
    """Yields the first picture of each template."""
    for _, members in groupby(drafts, lambda draft: draft.template):
        yield next(members)


def _packed(value: Any) -> str:
    return base64.b64encode(zlib.compress(json.dumps(value).encode(), 1)).decode()


def _unpacked(text: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(text)))
