import { z } from "zod";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { attempt, UserError } from "../base/errors.ts";
import { readText } from "../base/files/files.ts";
import { undeclaredEnds } from "../data/chat/end-of-turn.ts";
import { withChatSettings } from "../data/chat/settings.ts";
import { CHAT_TEMPLATE_FILE } from "../hf/weights/template-files.ts";
import { loadTokenizer } from "../data/tokens/tokenizer.ts";
import { loadConfig } from "../hf/config/config.ts";
import { readEmbedder } from "../hf/config/embeddings.ts";
import { contextLimit } from "../models/context.ts";
import { bareOf, familyOf } from "../models/families/index.ts";
import { mergeAdapter } from "../hf/peft/merge.ts";
import { findModel } from "../load/find-model.ts";
import { validateOptions } from "./options.ts";

export const mergeOptionsSchema = z.strictObject({
  model: z
    .string()
    .min(1)
    .optional()
    .describe("base model: folder, GGUF file or hub name (default: the one that the adapter names)"),
  adapter: z.string().min(1).optional().describe("PEFT adapter folder, such as a run folder"),
  out: z.string().min(1).describe("folder to write; must be new or empty"),
  maxShardSize: z.number().positive().default(50).describe("largest weight file, in GB (10^9 bytes)"),
});

export type MergeOptions = z.input<typeof mergeOptionsSchema>;

export interface MergeResult {
  /** The folder that was written. */
  readonly out: string;
  /** The base model's folder on this machine. */
  readonly base: string;
  /** The adapter's folder. */
  readonly adapter: string;
}

/**
 * Adds an adapter to its base model's weights and writes a model folder in the base model's dtype.
 * @throws {UserError} an adapter of another model, an output folder in use, a full disk
 */
export async function merge(options: MergeOptions): Promise<MergeResult> {
  const { out, maxShardSize, ...named } = validateOptions(mergeOptionsSchema, options);
  const lacking = new UserError("merge needs an adapter: give its folder with --adapter");
  if (named.model === undefined && named.adapter === undefined) throw lacking;
  const { folder: base, adapter } = await findModel(named);
  if (adapter === null) throw lacking;
  const own = join(adapter, CHAT_TEMPLATE_FILE);
  const chatTemplate = existsSync(own) ? readText(own) : null;
  // Weights alone, without a tokenizer beside them, can be merged too.
  const loaded = attempt(() => loadTokenizer(base));
  const tokenizer = loaded && withChatSettings(loaded, chatTemplate === null ? {} : { chatTemplate: own });
  const stopIds = tokenizer && undeclaredEnds(loadConfig(base).eosTokenIds, tokenizer);
  const said = readEmbedder(adapter);
  const config = loadConfig(base);
  const embedder = said && {
    pooling: said.pooling,
    dense: said.dense,
    width: said.dense.at(-1)?.outputs ?? config.hiddenSize,
    maxLength: said.maxLength ?? contextLimit(config),
    lowerCase: said.lowerCase,
    hasTemplate: (tokenizer?.chatTemplates.size ?? 0) > 0,
    architecture: bareOf(familyOf(config)),
  };
  mergeAdapter({
    base,
    adapter,
    output: out,
    maxShardBytes: maxShardSize * 1e9,
    learned: { stopIds: said ? null : stopIds, chatTemplate, embedder },
  });
  return { out, base, adapter };
}
