/** The model that the form names, and what depends on it: the samplers and schedules to choose from. */

/**
 * @typedef {import("./form_state.js").FormState} FormState
 * @typedef {{samplers: string[], schedules: string[], token_samplers: string[], token_schedules: string[],
 *   catalogue: Record<string, any[]>, default_model?: string}} Description
 */

/**
 * Returns the entry of the catalogue for the model that the form names, or for the default one.
 * @param {Description} description @param {FormState} state
 */
export function chosenModel({ catalogue, default_model }, state) {
  const id = state.effective("model") ?? default_model;
  return catalogue.models.find((entry) => entry.id === id) ?? catalogue.models[0];
}

/**
 * Returns the names of samplers and schedules that the chosen model has: pictures of tokens have their own.
 * @param {Description} description @param {FormState} state
 */
export function namesOf(description, state) {
  return chosenModel(description, state)?.tokens
    ? { samplers: description.token_samplers, schedules: description.token_schedules }
    : { samplers: description.samplers, schedules: description.schedules };
}
