"""The network as the sampling loop sees it: its conditions, guidance and what it reuses inside."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import mlx.core as mx

from . import adapters, conditions, controls, image_prompts
from .adapters import Features
from .checkpoint.model import Model
from .completion import table_of
from .condition_rows import Conditions
from .controller import Branch, Controller
from .image_prompts import ImageAttention
from .networks.blocks import Attend, apply_attention
from .networks.few_rows import part_of_batch
from .networks.tuned_unet import TunedUNet
from .networks.unet import Deep, Join, UNet, concatenate
from .perturbed_attention import PerturbedAttention
from .ranks.deal import Deal
from .request import Request
from .reuse.feature_cache import FeatureCache
from .reuse.guided_steps import GuidedSteps, guided_steps_of
from .reuse.tgate import AttentionCache, caches
from .reuse.token_downsampling import TokenSteps
from .reuse.unconditional import UnconditionalRefresh, unconditional_refresh_of
from .sampling.table import Table
from .split import UNSPLIT, Split
from .tasks.tiles import Cut, Tiled
from .tuning.apply import tuned_unet

Evaluate = Callable[[Deep, int], tuple[mx.array, mx.array]]  # (deep, depth) -> (prediction, deep)


class Beside(NamedTuple):
    """What stands beside the UNet: control networks, the features of adapters, and image prompts."""

    branches: Sequence[Branch]
    by_stage: Mapping[int, mx.array]
    image_attention: ImageAttention | None


class Predictor:
    """The guided network for one generation of a batch of N pictures."""

    def __init__(
        self,
        unet: UNet,
        conditions: Conditions | Sequence[Conditions],
        guidance: float,
        deepcache: FeatureCache,
        *,
        guidance_rescale: float = 0.0,
        image_guidance: float = 1.0,
        channels: mx.array | None = None,
        join: Join = concatenate,
        tgate: AttentionCache | None = None,
        control: Controller | None = None,
        features: Features | None = None,
        image_attention: ImageAttention | None = None,
        perturbation: PerturbedAttention | None = None,
        guided_steps: GuidedSteps | None = None,
        unconditional: UnconditionalRefresh | None = None,
        tokens: TokenSteps | None = None,
        deal: Deal | None = None,
        in_turn: bool = False,
        run: TunedUNet | UNet | None = None,
    ):
        """Collects what one generation needs.

        conditions: of all evaluations, or one for each, where prompts change on the way. guidance, guidance_rescale: as
        `guide` takes them. deepcache: the deep features of this generation. image_guidance: of checkpoints that edit by
        instruction, as `Conditions.guide` takes it. channels: (1 or N, h, w, K) beside the latents. join: how the UNet
        joins skips (FreeU). tgate: the attention outputs of this generation. control: its control networks. features:
        what its T2I-Adapters add. image_attention: what its image prompts add to attentions. perturbation: of the last
        rows, where the conditions have such rows. guided_steps: which evaluations are guided, where not all are; their
        changes restart `deepcache`. unconditional: where the rows without the prompt are left out, where they are.
        tokens: where they are downsampled. deal: of the rows over ranks, which exchange their predictions. in_turn: the
        rows with and without the prompt go through the UNet one after the other, in less memory, unless they depend on
        each other: T-GATE keeps attention of all, and some policies decide by all. run: is called in the place of the
        UNet.
        """
        self._run_unet = unet if run is None else run
        self._unet, self._conditions, self._channels = unet, conditions, channels
        self._guidance, self._guidance_rescale, self._image_guidance = guidance, guidance_rescale, image_guidance
        self._features, self._image_attention, self._perturbation = features, image_attention, perturbation
        self._guided_steps, self._tokens, self._deal = guided_steps, tokens, Deal() if deal is None else deal
        self._unconditional = unconditional
        self.deepcache, self._join, self._tgate, self._control = deepcache, join, tgate, control
        self._in_turn = in_turn and tgate is None and self._deal.size == 1 and not deepcache.looks_inside

    @property
    def full(self) -> int:
        """How many evaluations were not cached."""
        return self.deepcache.full

    @property
    def attended(self) -> list[int]:
        """How many bytes of each layer's attention T-GATE keeps."""
        return self._tgate.sizes if self._tgate else []

    def guides(self, evaluation: int) -> bool:
        """Tells whether an evaluation is guided, where the conditions are."""
        return self._guided_steps is None or self._guided_steps.guides(evaluation)

    def leaves_out_unconditional(self, evaluation: int) -> bool:
        """Tells whether an evaluation leaves out the rows without the prompt, where the images decide about nothing."""
        if self._unconditional is None:
            return False
        counter = self._unconditional.counter()
        guided = [i for i in range(evaluation + 1) if self.guides(i)]
        left_out = {i: counter.leaves_out(i, self.deepcache.is_full(i)) for i in guided}
        return left_out.get(evaluation, False)

    def downsamples_tokens(self, evaluation: int) -> bool:
        """Tells whether pictures attend to a part of their tokens at an evaluation."""
        return self._tokens is not None and self._tokens.acts(evaluation)

    def __call__(self, latents: mx.array, timestep: float) -> mx.array:
        """Returns the guided prediction, float32, for latents (N, h, w, C)."""
        evaluation = self.deepcache.evaluations
        rows = self._conditions if isinstance(self._conditions, Conditions) else self._conditions[evaluation]
        if not self.guides(evaluation):
            rows = rows.conditional()
        count, full = latents.shape[0], self.deepcache.decide(latents)
        shown, unconditional = rows, self._unconditional if rows.guided else None
        alone = unconditional is not None and unconditional.leaves_out(evaluation, full)
        if alone:
            rows = rows.conditional()
        controlled = rows
        if self._tgate and self._tgate.drops_guidance(evaluation):
            # The UNet reuses what the prompt did; a control network has no such memory, and reads the prompt.
            rows, controlled = rows.unconditional(), rows.conditional()
        share = self._deal.share(rows.copies)
        collect = partial(self._deal.collect_rows, copies=rows.copies, count=count)
        run = self._run_in_turn if self._in_turn and len(share) > 1 else self._run
        evaluate = run(latents, timestep, rows, controlled, share) if share else self._idle(latents)
        front = count if unconditional else 0
        part = self.deepcache.evaluate(evaluate, collect, front=front, without_front=alone)
        output = collect(part).astype(mx.float32)
        if self._tgate:
            self._tgate.end(evaluation, collect)
        if rows.guided and self._guided_steps and self._guided_steps.ends_with(evaluation, latents, output[:2]):
            self.deepcache.restart()
        if unconditional:
            if alone:
                rows, output = shown, unconditional.restored(output, count)
            else:
                unconditional.keep(output, count)
        away = self._perturbation.scale_at(timestep) if self._perturbation else 0.0
        prediction = rows.guide(output, self._guidance, self._guidance_rescale, away, self._image_guidance)
        self.deepcache.follow(latents, prediction)
        return prediction

    def _run(
        self, latents: mx.array, timestep: float, rows: Conditions, controlled: Conditions, share: range
    ) -> Evaluate:
        """Returns what runs the UNet on a share of the rows; controlled: of all rows, as control networks see them."""
        evaluation, count = self.deepcache.evaluations, latents.shape[0]
        part = rows.part(share)
        attend: Attend = apply_attention
        if self._image_attention:
            attend = self._image_attention.apply(part.promptless, part.copies)
        if self._tokens:
            attend = self._tokens.attend(evaluation, attend, (latents.shape[1], latents.shape[2]))
        if self._perturbation and part.perturbed:
            attend = self._perturbation.apply(attend, count)
        if self._tgate:
            attend = self._tgate.attend(evaluation, attend)
        x = mx.concatenate([latents] * part.copies)
        if self._channels is not None:
            channels = mx.broadcast_to(self._channels, (count, *self._channels.shape[1:]))
            x = mx.concatenate([x, part.beside(channels)], axis=-1)
        x = x.astype(self._unet.dtype)

        def evaluate(deep: Deep, depth: int) -> tuple[mx.array, mx.array]:
            """Runs the UNet; see `UNet.__call__` for deep and depth."""
            t, residuals = mx.array(timestep), None
            if self._control:
                # Where the UNet itself decides whether to reuse, all are asked for: MLX computes what is then read.
                outer = depth if isinstance(deep, mx.array) else None
                residuals = self._control.residuals(evaluation, latents, t, controlled, outer, share)
            with part_of_batch(part.copies * count, rows.copies * count):
                return self._run_unet(
                    x,
                    t,
                    part.context,
                    **part.keywords,
                    deep=deep,
                    depth=depth,
                    join=self._join,
                    attend=attend,
                    skip_residuals=residuals and residuals.skips,
                    middle_residual=residuals and residuals.middle,
                    features=self._features and self._features.at(evaluation),
                )

        return evaluate

    def _run_in_turn(
        self, latents: mx.array, timestep: float, rows: Conditions, controlled: Conditions, share: range
    ) -> Evaluate:
        """Returns what runs the UNet on the rows of a share as `_run` does, with the activations of one in memory."""
        count = latents.shape[0]

        def evaluate(deep: Deep, depth: int) -> tuple[mx.array, mx.array]:
            """Runs the UNet once for each copy of the pictures; see `UNet.__call__` for deep and depth."""
            results = []
            for i in share:
                part = deep[i * count : (i + 1) * count] if isinstance(deep, mx.array) else deep
                results.append(self._run(latents, timestep, rows, controlled, range(i, i + 1))(part, depth))
                mx.eval(results[-1])
            predictions, features = zip(*results, strict=True)
            return mx.concatenate(list(predictions)), mx.concatenate(list(features))

        return evaluate

    def _idle(self, latents: mx.array) -> Evaluate:
        """Returns what takes the place of the UNet on a rank that has no row, and still decides with the others."""
        nothing = mx.zeros((0, *latents.shape[1:3], self._unet.config.out_channels), self._unet.dtype)

        def evaluate(deep: Deep, depth: int) -> tuple[mx.array, mx.array]:
            """Returns arrays without rows."""
            if callable(deep):
                deep(nothing)
            return nothing, nothing

        return evaluate


def predictor_of(
    model: Model,
    requests: Sequence[Request],
    channels: mx.array | None = None,
    table: Table | None = None,
    *,
    first_step: int = 0,
    steps: int | None = None,
    steps_before: int = 0,
    beside: Beside | None = None,
    split: Split = UNSPLIT,
) -> Predictor | Tiled:
    """Returns the network as the sampling loop sees it; see `StableDiffusion.predictor`.

    first_step, steps: how many steps were run before this table's, and how many there are in all, for prompts that
    change on the way; steps_before: those of an earlier pass. beside: what stands beside the UNet, where it is loaded.
    split: which rank computes which rows and tiles.
    """
    request = requests[0]
    size, tile = latent_shape(model, request)[:2], request.denoise_tile
    table = table or table_of(model, request)
    log_snr = table.log_snr
    numbers = [first_step + number for number in table.steps]
    inputs = conditions.subjects_of(model, requests, numbers, steps, steps_before)
    first = inputs.conditions[0]
    # Where prompts do not change, a caller may run a table of any length.
    subjects = first if all(rows is first for rows in inputs.conditions) else inputs.conditions
    join = request.freeu.join(model.unet.config) if request.freeu else concatenate
    branches, by_stage, image_attention = beside_of(model, request) if beside is None else beside
    perturbation = PerturbedAttention(model.unet, request.pag, request.pag_adaptive or 0.0) if request.pag else None
    features = Features.of(by_stage, request, len(log_snr))
    todo, total = request.token_downsampling, steps or max(numbers)
    tokens = TokenSteps(todo, model.unet.config, numbers, total) if todo else None

    def over(cut: Cut) -> Predictor:
        """Returns a predictor with fresh caches, over a tile or the whole picture."""
        own_branches = [branch._replace(image=cut(branch.image)) for branch in branches]
        control = Controller(own_branches, len(log_snr), bool(request.guess_mode)) if branches else None
        restarts = {*inputs.changes, *(control.changes if control else ())}
        restarts |= {*(features.changes(len(log_snr)) if features else ())}
        guided = first.guided
        guided_steps = guided_steps_of(request, table, numbers, total) if guided else None
        restarts |= {*(guided_steps.changes() if guided_steps else ())}
        decision = request.deepcache.along(table) if request.deepcache else None
        deepcache, tgate = caches(
            request.deepcache, request.tgate, log_snr, guided=guided, restarts=restarts, decision=decision
        )
        unconditional = unconditional_refresh_of(request, inputs.conditions, restarts) if guided else None
        return Predictor(
            model.unet,
            subjects,
            request.guidance or 0.0,
            deepcache,
            guidance_rescale=request.guidance_rescale,
            image_guidance=request.image_guidance or 1.0,
            channels=None if channels is None else cut(channels),
            join=join,
            tgate=tgate,
            control=control,
            image_attention=image_attention,
            features=features and features.of_tile(cut, size),
            perturbation=perturbation,
            guided_steps=guided_steps,
            unconditional=unconditional,
            tokens=tokens,
            deal=split.rows,
            in_turn=model.low_memory is not None,
            run=tuned_unet(model, request.tuning, pixel_size(request)),
        )

    if split.tiles.size == 1 and (not tile or max(size) <= tile):
        return over(lambda array: array)
    return Tiled(size, tile or max(size), model.unet.config.downsampling, over, split.tiles)


def latent_shape(model: Model, request: Request) -> tuple[int, int, int]:
    """Returns (h, w, C) of the latents of a completed request."""
    factor, (width, height) = model.vae.config.downsampling, pixel_size(request)
    return height // factor, width // factor, model.vae.config.latent_channels


def pixel_size(request: Request) -> tuple[int, int]:
    """Returns (width, height) of a completed request."""
    assert request.width is not None and request.height is not None
    return request.width, request.height


def beside_of(model: Model, request: Request) -> Beside:
    """Loads what stands beside the UNet of a completed request, and shows it its images."""
    return Beside(
        controls.branches(model, request), adapters.features(model, request), image_prompts.attention(model, request)
    )
