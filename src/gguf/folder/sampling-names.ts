/** The keys of `generation_config.json` that files have, and their names there (`general.sampling.`). */
export const SAMPLING_NAMES = {
  temperature: "temp",
  top_p: "top_p",
  top_k: "top_k",
  min_p: "min_p",
  repetition_penalty: "penalty_repeat",
} as const;
