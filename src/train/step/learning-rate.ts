import type { TrainConfig } from "../config.ts";

/** Warm-up steps: `warmup` itself, or a share of all steps when it is below 1. */
export function warmupSteps(config: Pick<TrainConfig, "warmup">, totalSteps: number): number {
  return config.warmup < 1 ? Math.round(config.warmup * totalSteps) : Math.round(config.warmup);
}

/**
 * Learning rate of a step, counted from 0 (the same curves as Transformers' schedulers): linear warm-up from 0, then
 * constant, linear to 0, or half a cosine to 0.
 */
export function learningRate(
  config: Pick<TrainConfig, "schedule" | "warmup"> & { readonly learningRate: number },
  step: number,
  totalSteps: number,
): number {
  const warmup = warmupSteps(config, totalSteps);
  if (step < warmup) return (config.learningRate * step) / Math.max(1, warmup);
  const progress = Math.min(1, (step - warmup) / Math.max(1, totalSteps - warmup));
  switch (config.schedule) {
    case "constant":
      return config.learningRate;
    case "linear":
      return config.learningRate * (1 - progress);
    case "cosine":
      return (config.learningRate * (1 + Math.cos(Math.PI * progress))) / 2;
  }
}
