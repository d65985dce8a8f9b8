import { UserError } from "../base/errors.ts";
import { fileVerdict } from "../base/files/file-verdicts.ts";
import { isVision } from "../hf/weights/model-weights.ts";
import type { TensorSource } from "../hf/weights/safetensors.ts";
import { parameterShapes } from "../models/chain/parameters.ts";
import type { ModelConfig } from "../models/config.ts";
import { modulesOf, textHeadShapes } from "../models/families/index.ts";

/** Names that the model computes by itself, or that say a thing twice: old files hold such tensors, and nobody misses them. */
const COMPUTED = /\.(rotary_emb\.inv_freq|masked_bias|attn\.bias|attention\.bias|embeddings\.position_ids)$/;

/** Layers of embeddings, which other heads do not read. */
const BEHIND_POOLING = /^\d+_Dense\./;

/** The version of this check: what an earlier one has found is not believed. */
const CHECK_VERSION = 2;

/** Names in a note. */
const NAMED = 3;

/**
 * Looks for tensors of a checkpoint that nothing reads.
 * @returns a sentence about tensors that stand beside the model, such as further layers; null where there are none
 * @throws {UserError} a tensor of a module that is read, such as a bias that config.json does not know: results would differ
 * from other systems' without a word
 */
export function checkUnread(config: ModelConfig, source: TensorSource): string | null {
  const kind = `unread ${CHECK_VERSION} ${Bun.hash(JSON.stringify(config))}`;
  return fileVerdict(kind, source.path, () => ({ note: findUnread(config, source) })).note;
}

function findUnread(config: ModelConfig, source: TensorSource): string | null {
  const read = new Set(parameterShapes(config).keys());
  const modules = new Set([...read].map(moduleOf));
  const { head, encoder, norm = "norm" } = modulesOf(config);
  // Heads that the model can be given read these.
  const spare = new Set([`${head}.weight`, ...(encoder ? textHeadShapes(config, 0).keys() : [])]);
  // Embeddings come from behind it.
  const finalNorm = encoder ? encoder.finalNorm : norm;
  if (finalNorm !== null) spare.add(`${config.modulePrefix}${finalNorm}.weight`);
  const unread = [...source.tensors.keys()].filter(
    (name) => !read.has(name) && !isVision(name) && !COMPUTED.test(name) && !spare.has(name) && !BEHIND_POOLING.test(name),
  );
  const partOfRead = unread.find((name) => modules.has(moduleOf(name)));
  if (partOfRead !== undefined) {
    throw new UserError(
      `${source.path}: nothing reads tensor ${JSON.stringify(partOfRead)}, a part of a module that config.json describes otherwise; do the two files belong together? A bias needs attention_bias or mlp_bias there`,
    );
  }
  const [first] = unread;
  if (first === undefined) return null;
  const more = unread.length > NAMED ? ` and ${unread.length - NAMED} more` : "";
  return `nothing reads these tensors of the checkpoint, which stay as they are: ${unread.slice(0, NAMED).join(", ")}${more}`;
}

const moduleOf = (name: string): string => name.slice(0, name.lastIndexOf("."));
