import { UserError } from "../base/errors.ts";
import type { ModelConfig } from "../models/config.ts";
import type { Adapter } from "../hf/peft/peft.ts";
import { adapterKind } from "../models/adapters/index.ts";
import { transpose } from "../models/adapters/low-rank.ts";
import { modulesOf } from "../models/families/index.ts";
import { readFloat32 } from "../hf/weights/safetensors.ts";
import { encode, gathered, typeFor } from "./encode.ts";
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
  const { update, name: kind } = adapterKind(adapter.method);
  const instead = "; write the model with the adapter merged in: remat merge, or export without --adapter-only";
  const refuse = (what: string) =>
    new UserError(`${adapter.source.path}: llama.cpp's adapters have no place for ${what}${instead}`);
  if (!update) throw refuse(`an adapter of the kind ${kind}`);
  const [whole] = [...adapter.whole.keys(), ...adapter.copies.keys()];
  if (whole !== undefined) throw refuse(`${whole}, which is trained whole`);
  const alpha = Math.fround(update.alpha(adapter.own));
  const metadata = new Map<string, GgufValue>([
    ["general.architecture", { text: architectureOf(config) }],
    ["general.type", { text: "adapter" }],
    ["adapter.type", { text: "lora" }],
    ["adapter.lora.alpha", { f32: alpha }],
  ]);
  const { head } = modulesOf(config);
  const tensors = [...adapter.modules].flatMap(([module, { layer, setup, parts: stored }]): GgufTensor[] => {
    const pair = update.pair({ layer }, setup);
    const { rank, scale } = pair;
    if (config.tieWordEmbeddings && module === head) throw refuse(`${head}, which is shared with the embedding`);
    if (config.tieWordEmbeddings && layer === "embedding") throw refuse(`${module}, which is shared with the head`);
    const parts = ggufParts(`${module}.weight`, config);
    if (parts.length === 0 || parts.some(({ isMergedOnly }) => isMergedOnly)) throw refuse(`module ${module}`);
    const [a, b] = [stored.get(pair.a)!, stored.get(pair.b)!];
    const rest = (scale * rank) / alpha;
    const aValues = () => readFloat32(adapter.source, a.name, a.shape);
    const bValues = () => readFloat32(adapter.source, b.name, b.shape).map((value) => value * rest);
    const bType = typeFor(type, b.shape);
    // llama.cpp looks up rows of the embedding's A, so that its rows are the words.
    const isTable = layer === "embedding";
    const aShape = isTable ? a.shape.toReversed() : a.shape;
    const aType = typeFor(type, aShape);
    const [outputs, inputs] = [b.shape[0]!, a.shape[1]!];
    return parts.flatMap(({ name, rows, columns }): GgufTensor[] => {
      const own = rows?.(outputs) ?? null;
      const aData = () => {
        const values = gathered(aValues(), inputs, null, columns?.(inputs) ?? null);
        return [encode(isTable ? transpose(values, rank, inputs) : values, aType, a.name)];
      };
      return [
        { name: `${name}.lora_a`, type: aType, shape: aShape, data: aData },
        {
          name: `${name}.lora_b`,
          type: bType,
          shape: [own?.length ?? outputs, rank],
          data: () => [encode(gathered(bValues(), rank, own, null), bType, b.name)],
        },
      ];
    });
  });
  writeGguf(path, metadata, tensors);
}
