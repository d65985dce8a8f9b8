import { elements } from "../graph/types.ts";
import type { OpenModel } from "../load/open-model.ts";
import { UserError } from "../base/errors.ts";
import type { TensorSource } from "../hf/weights/safetensors.ts";
import { needlessKeys, type TrainConfig } from "./config.ts";

/** Parameters below which all of a text encoder is trained, where nothing else is asked for. */
const MOST_PARAMETERS = 200e6;

type MethodChoice = Pick<TrainConfig, "method" | "quantize" | "quantizeEmbedding">;

/**
 * A configuration with the method that a model is trained by where none is asked for: all weights of a text encoder of fewer than 200 million parameters, whose states fit
 * anywhere, and adapters on every other model. Whoever speaks of adapters, or of quantised weights, gets adapters.
 * @throws {UserError} all weights of a model are to be trained whose file cannot hold them
 * @param given the keys of the configuration that were asked for
 * @param onNote told what was chosen
 */
export function withUsualMethod<C extends MethodChoice>(
  config: C,
  { config: model, source, adapter }: Pick<OpenModel, "config" | "source" | "adapter">,
  given: readonly string[],
  onNote: (text: string) => void = () => {},
): C {
  if (config.method === "full") checkHoldsTrained(source);
  if (given.includes("method") || model.encoder === null || adapter !== null) return config;
  const isQuantised = config.quantize !== "off" || config.quantizeEmbedding;
  if (isQuantised || needlessKeys({ ...config, method: "full" }).length > 0) return config;
  const parameters = [...source.tensors.values()].reduce((sum, { shape }) => sum + elements(shape), 0);
  if (parameters >= MOST_PARAMETERS) return config;
  onNote(
    "all weights are trained, as is usual of text encoders of fewer than 200 million parameters; --method lora trains an adapter",
  );
  return { ...config, method: "full" };
}

/** @throws {UserError} experts in MXFP4 */
function checkHoldsTrained({ path, tensors }: TensorSource): void {
  if (![...tensors.values()].some(({ part }) => part?.layout.kind === "mxfp4")) return;
  throw new UserError(
    `${path} has experts in MXFP4, which cannot hold trained weights; --method full needs the model in bf16, adapters take it as it is`,
  );
}
