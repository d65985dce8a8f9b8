import { SAMPLING, type SamplingKey, type SamplingValues } from "../generate/sampling.ts";
import { SAMPLING_NAMES } from "./folder/sampling-names.ts";
import type { GgufValue } from "./write.ts";

/** The names of settings as parameters of a Modelfile. */
const OLLAMA: Readonly<Partial<Record<SamplingKey, string>>> = {
  temperature: "temperature",
  topP: "top_p",
  topK: "top_k",
  minP: "min_p",
  repetitionPenalty: "repeat_penalty",
};

const ggufName = (key: SamplingKey): string | undefined =>
  (SAMPLING_NAMES as Readonly<Record<string, string>>)[SAMPLING[key].name];

function named(values: Partial<SamplingValues>, nameOf: (key: SamplingKey) => string | undefined) {
  return (Object.keys(SAMPLING) as SamplingKey[]).flatMap((key) => {
    const [name, value] = [nameOf(key), values[key]];
    return name === undefined || value === undefined ? [] : [{ name, value }];
  });
}

/** Returns what a model's `generation_config.json` says of sampling, for llama.cpp, which samples so unless told otherwise. */
export function samplingMetadata(values: Partial<SamplingValues>): [string, GgufValue][] {
  return named(values, ggufName).map(({ name, value }) => [
    `general.sampling.${name}`,
    name === SAMPLING_NAMES.top_k ? { u32: value } : { f32: value },
  ]);
}

/** The same for Ollama. */
export function samplingParameters(values: Partial<SamplingValues>): string[] {
  return named(values, (key) => OLLAMA[key]).map(({ name, value }) => `PARAMETER ${name} ${value}`);
}
