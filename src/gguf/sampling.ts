import type { SamplingKey, SamplingValues } from "../generate/sampling.ts";
import type { GgufValue } from "./write.ts";

/** The names of settings in GGUF metadata (`general.sampling.`) and as parameters of a Modelfile. */
const NAMES: Readonly<Partial<Record<SamplingKey, { readonly gguf: string; readonly ollama: string }>>> = {
  temperature: { gguf: "temp", ollama: "temperature" },
  topP: { gguf: "top_p", ollama: "top_p" },
  topK: { gguf: "top_k", ollama: "top_k" },
  minP: { gguf: "min_p", ollama: "min_p" },
  repetitionPenalty: { gguf: "penalty_repeat", ollama: "repeat_penalty" },
};

function named(values: Partial<SamplingValues>) {
  return Object.entries(NAMES).flatMap(([key, name]) => {
    const value = values[key as SamplingKey];
    return value === undefined ? [] : [{ ...name, value }];
  });
}

/** Returns what a model's `generation_config.json` says of sampling, for llama.cpp, which samples so unless told otherwise. */
export function samplingMetadata(values: Partial<SamplingValues>): [string, GgufValue][] {
  return named(values).map(({ gguf, value }) => [`general.sampling.${gguf}`, gguf === "top_k" ? { u32: value } : { f32: value }]);
}

/** The same for Ollama. */
export function samplingParameters(values: Partial<SamplingValues>): string[] {
  return named(values).map(({ ollama, value }) => `PARAMETER ${ollama} ${value}`);
}
