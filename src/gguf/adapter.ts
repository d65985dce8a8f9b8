import { UserError } from "../base/errors.ts";
import type { ModelConfig } from "../models/config.ts";
import type { Adapter } from "../hf/peft/peft.ts";
import { modulesOf } from "../models/families/index.ts";
import { readFloat32 } from "../hf/weights/safetensors.ts";
import { encode, typeFor } from "./encode.ts";
import { architectureOf, checkExportable, ggufParts } from "./names.ts";
import { type GgufTensor, type GgufType, type GgufValue, writeGguf } from "./write.ts";

/**
 * Writes an adapter alone, to be used with a GGUF file of its base model. llama.cpp scales a module by alpha / its rank;
 * a module with another scale gets the rest in B.
 * @throws {UserError} modules that the format has no place for
 */
export function exportAdapter(path: string, adapter: Adapter, config: ModelConfig, type: GgufType): void {
  checkExportable(config);
  if (type === "q4_0")
    throw new UserError("an adapter alone is not written as q4_0: too little would be left of it; take q8_0 or f16");
  const alpha = Math.fround(adapter.scale * adapter.rank);
  const metadata = new Map<string, GgufValue>([
    ["general.architecture", { text: architectureOf(config) }],
    ["general.type", { text: "adapter" }],
    ["adapter.type", { text: "lora" }],
    ["adapter.lora.alpha", { f32: alpha }],
  ]);
  const tensors = [...adapter.modules].flatMap(([module, { a, b, rank, scale }]): GgufTensor[] => {
    const { head } = modulesOf(config);
    if (module === head && config.tieWordEmbeddings) {
      throw new UserError(
        `${adapter.source.path}: ${head} is shared with the embedding, and llama.cpp has no place for an adapter of it`,
      );
    }
    const parts = ggufParts(module, config);
    if (parts.length === 0) throw new UserError(`${adapter.source.path}: module ${module} has no place in a GGUF adapter`);
    const rest = (scale * rank) / alpha;
    const aType = typeFor(type, a.shape);
    const bType = typeFor(type, b.shape);
    const aData = () => encode(readFloat32(adapter.source, a.name, a.shape), aType, a.name);
    const bValues = () => readFloat32(adapter.source, b.name, b.shape).map((value) => value * rest);
    return parts.flatMap(({ name, count, take }): GgufTensor[] => [
      { name: `${name}.weight.lora_a`, type: aType, shape: a.shape, data: aData },
      {
        name: `${name}.weight.lora_b`,
        type: bType,
        shape: [count(b.shape[0]!), rank],
        data: () => encode(take(bValues(), rank), bType, b.name),
      },
    ]);
  });
  writeGguf(path, metadata, tensors);
}
