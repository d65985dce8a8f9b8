import { join } from "node:path";
import { createRandom } from "../../src/base/random.ts";
import { elements } from "../../src/graph/types.ts";
import { type TensorData, writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import type { ParamInfo } from "../../src/runtime/resident.ts";

/** Writes the weights of a model folder: the same numbers for the same name, on any machine. `normWeight` makes a weight of a norm, or the factor of a layer, of a normal number. */
export function writeRandomWeights(
  path: string,
  params: readonly Pick<ParamInfo, "name" | "type">[],
  normWeight: (normal: number) => number,
  more: readonly TensorData[] = [],
): void {
  const tensors = params.map(({ name, type: { shape } }) => {
    const random = createRandom(1, name);
    const isNorm = /(norm\.weight|layer_scalar)$/i.test(name);
    const data = Float32Array.from({ length: elements(shape) }, () =>
      isNorm ? normWeight(random.normal()) : 0.3 * random.normal(),
    );
    return { name, dtype: "f32" as const, shape, data };
  });
  writeSafetensors(join(path, "model.safetensors"), [...tensors, ...more]);
}
