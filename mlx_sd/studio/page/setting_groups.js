/** Which settings are shown first, which have a control of their own, and how the rest is grouped. */

/** Settings that other parts of the form show: they are not repeated under "All settings". */
export const SHOWN_FIRST = new Set([
  "prompt",
  "negative",
  "model",
  "steps",
  "guidance",
  "sampler",
  "schedule",
  "width",
  "height",
  "seed",
  "speed",
  "init_image",
  "mask",
  "strength",
  "loras",
]);

/** @typedef {{title: string, about: string, names: string[]}} Group */

/** The groups in order. A setting of the server that no group names is shown in the last one. @type {Group[]} */
export const GROUPS = [
  {
    title: "Prompt",
    about: "How prompts are read, and words of your own",
    names: ["prompt_style", "embeddings", "prompt_2", "negative_2", "class", "clip_skip"],
  },
  {
    title: "Second pass",
    about: "Hires fix: enlarge the picture and go on with it",
    names: ["hires", "hires_mode"],
  },
  {
    title: "Control",
    about: "Networks that follow a sketch, edges, depth, a pose or another picture",
    names: ["controls", "guess_mode", "adapters", "adapter_factor", "ip_adapters", "ip_encoder"],
  },
  {
    title: "Image and mask",
    about: "What is done with the start picture",
    names: ["mask_blur", "only_masked", "padding", "extend", "image_guidance", "noise_level"],
  },
  {
    title: "Speed and reuse",
    about: "Work that steps share, one by one",
    names: ["deepcache", "tgate", "token_downsampling", "freeu", "tuning"],
  },
  {
    title: "Guidance",
    about: "How strongly, and away from where",
    names: [
      "guidance_rescale",
      "guidance_interval",
      "adaptive_guidance",
      "unconditional_refresh",
      "pag",
      "pag_adaptive",
    ],
  },
  {
    title: "Sampler",
    about: "Options that only some samplers and schedules take",
    names: [
      "eta",
      "gamma",
      "order",
      "kind",
      "corrector",
      "rho",
      "s_churn",
      "s_tmin",
      "s_tmax",
      "s_noise",
      "rng",
      "temperature",
    ],
  },
  {
    title: "Model",
    about: "A refiner, another autoencoder, precision, tiles",
    names: ["refiner", "refine_at", "vae", "lora_mode", "dtype", "quantize", "tile", "denoise_tile"],
  },
  { title: "SDXL", about: "The sizes that SDXL is told", names: ["original_size", "target_size", "crop"] },
];

/** Settings that the server takes from no page. */
const REFUSED = new Set(["coreml"]);

const OTHERS = { title: "More", about: "Everything else", names: /** @type {string[]} */ ([]) };

/**
 * Returns the groups with the settings that the server has.
 * @param {Array<{name: string}>} settings
 * @returns {Array<Group & {settings: any[]}>}
 */
export function grouped(settings) {
  const rest = settings.filter((setting) => !SHOWN_FIRST.has(setting.name) && !REFUSED.has(setting.name));
  const named = new Set(GROUPS.flatMap((group) => group.names));
  const others = rest.filter((setting) => !named.has(setting.name)).map((setting) => setting.name);
  return [...GROUPS, { ...OTHERS, names: others }]
    .map((group) => ({
      ...group,
      settings: group.names.flatMap((name) => rest.filter((setting) => setting.name === name)),
    }))
    .filter((group) => group.settings.length);
}

const TITLES = /** @type {Record<string, string>} */ ({
  adapter_factor: "Share of the steps with adapters",
  adapters: "T2I-Adapters",
  adaptive_guidance: "Guidance ends by itself",
  class: "Class",
  clip_skip: "Layers of the text encoder left out",
  controls: "Control networks",
  corrector: "Corrector",
  crop: "Crop, from left and top",
  deepcache: "DeepCache",
  denoise_tile: "Tile of denoising",
  dtype: "Precision",
  embeddings: "Embeddings",
  extend: "Paint beyond the sides",
  freeu: "FreeU",
  guess_mode: "Guess mode",
  guidance_interval: "Share of the steps that is guided",
  adapter: "T2I-Adapters",
  ip_adapter: "Pictures as prompts (IP-Adapter)",
  hires: "Enlarge by",
  hires_mode: "How it is enlarged",
  image_guidance: "Nearness to the picture",
  init_image: "Start picture",
  ip_adapters: "Pictures as prompts (IP-Adapter)",
  ip_encoder: "Image encoder of IP-Adapters",
  kind: "Kind of solver",
  lora_mode: "LoRAs are",
  loras: "LoRAs",
  mask_blur: "Feather of the mask",
  negative: "Negative prompt",
  negative_2: "Second negative prompt",
  only_masked: "Paint the masked part at full size",
  pag: "Perturbed attention",
  pag_adaptive: "Fall of perturbed attention",
  padding: "Padding around the mask",
  prompt_2: "Second prompt",
  prompt_style: "Style of weights",
  quantize: "Bits of the weights",
  refine_at: "Refiner begins at",
  rng: "Source of noise",
  s_churn: "Churn",
  s_noise: "Churn's noise",
  s_tmax: "Churn's highest sigma",
  s_tmin: "Churn's lowest sigma",
  speed: "Speed preset",
  tgate: "T-GATE",
  tile: "Tile of decoding",
  unconditional_refresh: "Full evaluations for each without a prompt",
  vae: "Autoencoder",
});

/** Returns the title of a setting for people. @param {string} name */
export const titleOf = (name) => TITLES[name] ?? name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");
