"""An app that knows an export by its info.json and its kit by the README: it makes the golden picture."""

import numpy as np

from coreml.coreai.runtime import Runtime
from coreml.interpret.package import Package
from mlx_sd.reuse import deepcache
from tests.support import kit_reader


class App:
    """What an app does: packages by role, run by the project's interpreter, or assets run by Apple's runtime."""

    def __init__(self, folder):
        self.folder, self.info = folder, kit_reader.load(folder / "info.json")
        self.golden = kit_reader.load(folder / "kit/picture/picture.json")
        self.arrays = {
            name: kit_reader.array(folder / "kit/picture", entry) for name, entry in self.golden["arrays"].items()
        }
        self.size = f"{self.golden['width']}x{self.golden['height']}"
        self.rounding = self.info["options"]["dtype"] == "float16"
        self.core_ai = self.info["format"] == "mlx-sd Core AI"
        self.table = kit_reader.load(folder / "kit" / self.golden["table"])
        self.runtimes = {}

    def run(self, role, size, feeds):
        for name, function in self.info["roles"][size][role]:
            ports = self.info["packages"][name]["functions"][function]["inputs"]
            zeros = {n: np.zeros(1) for n in ports if n.startswith("additional_residual_")}
            inputs = {n: np.broadcast_to((zeros | feeds)[n], p["shape"]).astype(p["dtype"]) for n, p in ports.items()}
            outputs = self.run_function(name, function, inputs)
            feeds = feeds | outputs
        return outputs

    def run_function(self, name, function, inputs):
        if self.core_ai:
            if name not in self.runtimes:
                self.runtimes[name] = Runtime(self.folder / f"{name}.aimodel")
            return self.runtimes[name].run(function, inputs)
        package = Package.load(self.folder / f"{name}.mlpackage")
        return package.run(inputs, function=function, rounding=self.rounding)

    def states(self, swapped=False):
        """The encoded texts (rows, 77, C), the negative one first."""
        texts = [self.golden["negative"], self.golden["prompt"]]
        rows = []
        for text in reversed(texts) if swapped else texts:
            parts = []
            roles = [role for role in self.info["roles"]["any"] if role.startswith("text_encoder")]
            for role, ids in zip(roles, self.info["tokenizers"], strict=True):
                vocabulary = self.folder / "tokenizer" if self.core_ai else self.folder
                tokenizer = kit_reader.Tokenizer(vocabulary, ids["start"], ids["end"], ids["length"])
                tokens = tokenizer.encode(text)
                outputs = self.run(role, "any", {"input_ids": np.array([tokens + [ids["pad"]] * (77 - len(tokens))])})
                name = "hidden_embeds" if "hidden_embeds" in outputs else "last_hidden_state"
                parts.append(outputs[name][0])
            rows.append(np.concatenate(parts, axis=-1))
        return np.stack(rows)

    def unet(self, states, x, timestep, deep):
        """The prediction of both rows, and the deep feature."""
        if "channels" in self.arrays:
            x = np.concatenate([x, self.arrays["channels"]])
        feeds = {name: self.arrays[name] for name in ("time_ids", "text_embeds") if name in self.arrays}
        feeds |= {"sample": x[None], "timestep": np.array([timestep], np.float32)}
        feeds["encoder_hidden_states"] = states if self.core_ai else states.transpose(0, 2, 1)[:, :, None]
        if self.core_ai:
            if deep is not None:
                feeds["deep_feature"] = sum(weight * feature for weight, feature in deep)
            outputs = self.run("unet_shallow" if deep is not None else "unet_full", self.size, feeds)
            return outputs["noise_pred"], outputs.get("deep_feature")
        if deep is None:
            feeds |= self.run("unet_deep", self.size, feeds)
        else:
            feeds["deep_feature"] = sum(weight * feature for weight, feature in deep)
        feature = feeds["deep_feature"]
        return self.run("unet_shallow", self.size, feeds)["noise_pred"], feature

    def guided(self, rows):
        return rows[0] + self.golden["guidance"] * (rows[1] - rows[0])

    def picture(self, states):
        """Every evaluation's latents, and the picture."""
        draw = kit_reader.GENERATORS[self.golden["generator"]](self.golden["seed"])
        shape = self.golden["arrays"]["latents"]["shape"][1:]

        def evaluate(x, timestep, deep):
            prediction, feature = self.unet(states, x, timestep, deep)
            return self.guided(prediction), feature

        trace = kit_reader.run(self.table, draw(shape), lambda: draw(shape), evaluate)
        z = trace[-1:] / self.info["latents"]["scaling_factor"]
        return trace, np.clip(self.run("vae_decoder", self.size, {"z": z})["image"][0], -1, 1)


def generated(sd, app):
    """What mlx_sd makes of the settings of a kit's golden picture: a result with latents."""
    golden, table = app.golden, app.table
    return sd.generate(
        golden["prompt"],
        golden["negative"],
        seed=golden["seed"],
        guidance=golden["guidance"],
        sampler=table["sampler"],
        schedule=table["schedule"],
        steps=table["steps"],
        deepcache=deepcache.parse(table["deepcache"]),
        output="latent",
    )


def distance(a, b):
    return np.abs(a - b).max() / np.abs(b).max()
