"""The text "parameters" of A1111's web UI -> our settings, and remarks about what they leave out.

Programs like it (Forge, SD.Next, Civitai) write the same text. Nothing in it is dropped without a remark, except keys
that change nothing here (_ABOUT) and values that mean "off".
"""

import re
from typing import Any, NamedTuple

from ..core.errors import InputError
from ..sampling import names
from . import infotext
from .a1111_names import solver_of
from .to_a1111 import CHURN, HIRES, OURS, STYLE

_ABOUT = frozenset(
    """Model hash|Lora hashes|Hashes|VAE hash|Version|User|App|Backend|Pipeline|Operations|Time taken|Created Date|
    Civitai resources|Civitai metadata|Init image hash|Batch size|Batch pos|Hardware Info|Emphasis|Parser|
    Downcast alphas_cumprod|Pad conds|Pad conds v0|Cache FP16 weight for LoRA""".replace("\n    ", "").split("|")
)
_OFF = frozenset(("", "0", "0.0", "None", "False", "false", "Disable", "Disabled"))
# How keys begin that belong together -> what they are called in a remark.
_GROUPS = {
    "Hires": "hires fix",
    "First pass size": "hires fix",
    "Face restoration": "face restoration",
    "Variation seed": "the variation seed",
    "TI hashes": "the textual inversions",
    "Hypernet": "a hypernetwork",
    "ADetailer": "ADetailer",
    "ControlNet": "ControlNet",
    "Tiled Diffusion": "tiled diffusion",
    "Token merging": "token merging",
    "Style Selector": "Style Selector",
    "dynthres": "dynamic thresholding",
    "RP ": "regional prompts",
    "Masked content": "the masked content",
}
_AUTOMATIC = "Automatic"  # the schedule type where a text names none
_PIXELS = 8  # of a latent
# A setting -> the setting without which it means nothing: the text names no image, no mask and no refiner.
NEEDS = {
    "strength": "init_image",
    "mask_blur": "mask",
    "only_masked": "mask",
    "padding": "mask",
    "refine_at": "refiner",
}
_EXTRA_NETWORK = re.compile(r"<(\w+):([^<>]{1,400})>")
_LONGEST = 40  # characters of a value in a remark


class Remark(NamedTuple):
    """Something that the settings leave out or change; not so where the user gives `field`."""

    text: str
    field: str | None = None


class Adapter(NamedTuple):
    """A LoRA that the prompt names: the name is no path."""

    name: str
    scale: float


class Translation(NamedTuple):
    """What A1111's text says, in our settings."""

    settings: dict[str, Any]  # as in `Request.to_json`
    adapters: tuple[Adapter, ...]
    remarks: tuple[Remark, ...]


def translate(text: str) -> Translation | None:
    """Returns the settings of A1111's text; None where it holds no settings."""
    parsed = infotext.parse(text)
    if parsed is None:
        return None
    reader = _Reader(parsed)
    reader.read_prompts()
    reader.read_solver()
    reader.read_numbers()
    reader.read_images()
    reader.read_model()
    reader.remark_the_others()
    return Translation(reader.settings, tuple(reader.adapters), tuple(reader.remarks))


class _Reader:
    """Takes values out of a text until none is left."""

    def __init__(self, parsed: infotext.Infotext):
        self._parsed, self._values = parsed, dict(parsed.values)
        self.settings: dict[str, Any] = {}
        self.adapters: list[Adapter] = []
        self.remarks: list[Remark] = []
        self._is_own = parsed.values.get("Version", "").startswith("mlx-sd")

    def _take(self, key: str) -> str | None:
        """Removes a value and returns it; None where it is missing or means "off"."""
        value = self._values.pop(key, None)
        return None if value in _OFF else value

    def _remark(self, text: str, field: str | None = None) -> None:
        self.remarks.append(Remark(text, field))

    def read_prompts(self) -> None:
        """Reads both prompts: LoRAs and other networks out of them, everything else as it is, in A1111's style."""
        if self._is_own and (style := self._take(STYLE)):
            self.settings["prompt_style"] = style
        for field, text in (("prompt", self._parsed.prompt), ("negative", self._parsed.negative)):
            plain = _EXTRA_NETWORK.sub(self._network, text)
            plain = text if plain == text else plain.strip()
            if plain or field == "prompt":
                self.settings[field] = plain

    def _network(self, match: "re.Match[str]") -> str:
        """Notes a network like <lora:name:0.8>; returns what stays of it in the prompt."""
        kind, (name, *scales) = match[1], match[2].split(":")
        numbers = [_number(scale) for scale in scales]
        if kind not in ("lora", "lyco", "hypernet"):
            return match[0]
        if kind == "hypernet":
            self._remark(f"the hypernetwork {_printable(name)}")
        elif all(isinstance(number, (int, float)) for number in numbers) and len(set(numbers)) <= 1:
            self.adapters.append(Adapter(name, float(numbers[0]) if numbers else 1.0))
        else:
            self._remark(f"the LoRA {_printable(match[0])}", "loras")
        return ""

    def read_solver(self) -> None:
        """Reads sampler and schedule with their options."""
        sampler, schedule = self._values.pop("Sampler", None), self._values.pop("Schedule type", None)
        churn = {name: value for name, key in CHURN.items() if (value := self._take(key)) is not None}
        if sampler is not None:
            solver = solver_of(sampler, schedule, self._is_own)
            self.settings |= {"sampler": solver.sampler, "schedule": solver.schedule, "kind": solver.kind}
            if solver.sampler is None:
                words = (solver.problem or "").replace(";", ",") or f"the sampler {_printable(sampler)} is unknown"
                self._remark(f"{words} (the checkpoint's own makes the picture; --sampler names another)", "sampler")
            elif solver.schedule is None:
                words = f"the schedule type {_printable(schedule or _AUTOMATIC)}"
                self._remark(f"{words} (the sampler's own; --schedule names another)", "schedule")
            if solver.sampler == "dpmpp_2m_sde" and not self._is_own:
                self._remark(f"the noise of {_printable(sampler)}, from a Brownian tree", "sampler")
            self._read_churn(churn)
        eta = self._take("Eta DDIM") or self._take("Eta")
        if eta is not None and self.settings.get("sampler") in ("ddim", "euler_ancestral"):
            self.settings["eta"] = _number(eta)
        elif eta is not None:
            self._remark(f"Eta {_printable(eta)}")
        rho = self._take("Schedule rho")
        if rho is not None and self.settings.get("schedule") == "karras":
            self.settings["rho"] = _number(rho)
        if ensd := self._take("ENSD"):
            self._remark(f"ENSD {_printable(ensd)}")

    def _read_churn(self, churn: dict[str, str]) -> None:
        """Reads the noise that Euler and Heun add in A1111, and edm here."""
        if not churn:
            return
        orders = {"euler": 1, "heun": 2}
        if self.settings["sampler"] not in orders:
            self._remark("the churn")
            return
        self.settings |= {name: _number(value) for name, value in churn.items()}
        self.settings |= {"order": orders[self.settings["sampler"]], "sampler": "edm"}

    def read_numbers(self) -> None:
        """Reads steps, guidance, seed, size and what else is a number."""
        for key, field in (("Steps", "steps"), ("CFG scale", "guidance"), ("Seed", "seed")):
            if key in self._values:
                self.settings[field] = _number(self._values.pop(key))
        self._read_image_guidance()
        if size := re.fullmatch(r"(\d{1,6})x(\d{1,6})", self._values.get("Size", "")):
            del self._values["Size"]
            width, height = (int(side) // _PIXELS * _PIXELS for side in size.groups())
            self.settings |= {"width": width, "height": height}
            if (width, height) != (int(size[1]), int(size[2])):
                self._remark(f"the size {size[0]} (in whole latents, {width}x{height})", "width")
        skip = _number(self._take("Clip skip") or 1)
        if skip != 1:
            self.settings["clip_skip"] = skip - 1 if isinstance(skip, int) else skip
            if not self._is_own:
                self._remark(f"Clip skip {skip} of the negative prompt, which keeps all layers here", "clip_skip")
        rng = self._values.pop("RNG", "GPU")
        try:
            self.settings["rng"] = names.read_rng(rng)
        except InputError:
            self._remark(f"RNG {_printable(rng)}", "rng")
        for field, key in OURS.items():
            if self._is_own and key in self._values:
                value = self._values.pop(key)
                self.settings[field] = _number(value) if field == "guidance_rescale" else value

    def _read_image_guidance(self) -> None:
        """Reads the guidance of the image, which A1111 writes of checkpoints that edit by instruction."""
        if (text := self._values.pop("Image CFG scale", None)) is None:
            return
        number = _number(text)
        if isinstance(number, (int, float)) and number < 1:
            self._remark(f"Image CFG scale {_printable(text)} (here from 1 up)", "image_guidance")
        else:
            self.settings["image_guidance"] = number

    def read_images(self) -> None:
        """Reads what is about an image or a mask, neither of which the text holds."""
        strength = self._take("Denoising strength")
        if strength is not None and self._read_hires(strength):
            strength = None
        hires = any(key.startswith(("Hires", "First pass size")) for key in self._values)
        if strength is not None and not hires:
            if "image_guidance" not in self.settings:
                self.settings["strength"] = _number(strength)
            elif _number(strength) != 1:
                self._remark(f"Denoising strength {_printable(strength)} (edits by instruction run all steps)")
            self._remark("the image it began with (--init-image names it)", "init_image")
        blur, padding = self._take("Mask blur"), self._take("Masked area padding")
        area = self._take("Inpaint area")
        if blur or area or padding:
            self._remark("the mask (--mask names it)", "mask")
            self.settings["mask_blur"] = _number(blur or 0)
            if area == "Only masked":
                self.settings |= {"only_masked": True, "padding": _number(padding or 32)}

    def _read_hires(self, strength: str) -> bool:
        """Reads hires fix, where its upscaler is one of ours; returns whether it did."""
        modes = {name: mode for mode, name in HIRES.items()}
        scale, upscaler = self._values.get("Hires upscale"), self._values.get("Hires upscaler")
        if not isinstance(_number(scale or ""), (int, float)) or upscaler not in modes:
            return False
        steps = self._values.pop("Hires steps", "0")
        for key in ("Hires upscale", "Hires upscaler"):
            del self._values[key]
        self.settings |= {"hires": f"{scale}:{steps if steps != '0' else ''}:{strength}", "hires_mode": modes[upscaler]}
        return True

    def read_model(self) -> None:
        """Reads the names of model, VAE and refiner, which are no paths."""
        if model := self._take("Model"):
            self._remark(
                f"the model {_printable(model)} (the default makes the picture; --model names another)", "model"
            )
        if vae := self._take("VAE"):
            self._remark(f"the VAE {_printable(vae)}", "vae")
        if (decoder := self._take("VAE Decoder")) and decoder != "Full":
            self._remark(f"the decoder {_printable(decoder)} (--vae taesd, or taesdxl, is TAESD)", "vae")
        refiner, switch = self._take("Refiner"), self._take("Refiner switch at")
        if refiner:
            self._remark(f"the refiner {_printable(refiner)} (--refiner names one)", "refiner")
            self.settings["refine_at"] = _number(switch) if switch else None

    def remark_the_others(self) -> None:
        """Notes what is left, in one remark for keys that belong together."""
        left = {key: value for key, value in self._values.items() if key not in _ABOUT and value not in _OFF}
        grouped: dict[str, list[str]] = {}
        for key, value in left.items():
            group = next((name for start, name in _GROUPS.items() if key.startswith(start)), key)
            grouped.setdefault(group, []).append(f"{key}: {_printable(value)}")
        for group, pairs in grouped.items():
            alone = len(pairs) == 1
            self._remark(
                _printable(group) + (f" ({pairs[0].partition(': ')[2]})" if alone else f" ({', '.join(pairs[:3])})")
            )


def _number(text: Any) -> Any:
    """Returns a text as a number where it is one, else unchanged: the request then says that it makes no sense."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _printable(value: str) -> str:
    """Returns a value of a foreign file as it may be printed: short, on one line, without control characters."""
    line = "".join(character if character.isprintable() else " " for character in value)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
