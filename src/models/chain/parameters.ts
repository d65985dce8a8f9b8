import type { Shape } from "../../graph/types.ts";
import type { ModelConfig } from "../config.ts";
import { NO_TUNING } from "../tuning.ts";
import { buildSegments } from "./segments.ts";

/** The parameters that a model has, with their shapes, in the order of its chain. */
export function parameterShapes(config: ModelConfig): Map<string, Shape> {
  const options = {
    tokens: 1,
    tuning: NO_TUNING,
    weightType: () => "f32" as const,
    ...(config.textHead && { head: "logits" as const, texts: 1 }),
  };
  const shapes = new Map<string, Shape>();
  for (const { params, model } of buildSegments(config, options))
    for (const [own, name] of params) shapes.set(name, model.forward.types.get(own)!.shape);
  return shapes;
}
