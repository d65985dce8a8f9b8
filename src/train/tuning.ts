import type { ModelConfig } from "../hf/config.ts";
import { type Adapter, resolveTargets } from "../hf/peft.ts";
import type { Tuning } from "../models/linear.ts";
import { loraScale, type TrainConfig } from "./config.ts";

/** What a configuration trains. @throws {UserError} targets that the model does not have */
export function tuningOf(
  config: Pick<TrainConfig, "method" | "rank" | "alpha" | "rslora" | "dropout" | "targets">,
  model: Pick<ModelConfig, "family">,
): Tuning {
  if (config.method === "full") return { method: "full" };
  return {
    method: "lora",
    rank: config.rank,
    scale: loraScale(config),
    dropout: config.dropout,
    targets: new Set(resolveTargets(config.targets, model)),
  };
}

/** What trains an adapter further that `readAdapter` has opened. */
export function tuningOfAdapter({ rank, scale, targets }: Adapter, dropout: number): Tuning {
  return { method: "lora", rank, scale, dropout, targets: new Set(targets) };
}
