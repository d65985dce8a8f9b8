import { dirname } from "node:path";
import { attempt, UserError } from "../base/errors.ts";
import { show } from "../base/json.ts";
import { readEmbedder, type SaidEmbedder } from "../hf/config/embeddings.ts";
import type { DenseLayer, ModelConfig, Pooling } from "../models/config.ts";
import { checkContext, contextLimit } from "../models/context.ts";
import type { OpenModel } from "./open-model.ts";
import { nameOf } from "./text-head.ts";

/** Describes how a model makes embeddings of texts. */
export interface Embedding {
  readonly pooling: Pooling;
  /** Layers behind the pooling. */
  readonly dense: readonly DenseLayer[];
  /** True if they are brought to length 1, behind everything else. */
  readonly normalizes: boolean;
  /** Numbers of an embedding, the first ones. */
  readonly dimensions: number;
  /** Text in front of each text. */
  readonly prompt: string;
  /** True if texts are put into lower case first. */
  readonly lowerCase: boolean;
  /** Tokens of a text, at most. */
  readonly maxLength: number;
}

/** Describes what a user asks for; whatever is absent is as the model's files say. */
export interface EmbeddingWishes {
  readonly pooling?: Pooling | undefined;
  readonly normalize?: boolean | undefined;
  readonly dimensions?: number | undefined;
  readonly prompt?: string | undefined;
  readonly promptName?: string | undefined;
  readonly sequenceLength?: number | undefined;
}

type Embeds = Pick<OpenModel, "name" | "folder" | "config" | "adapter" | "classifier">;

/** Returns what the files of a model say of its embeddings: those of its adapter, or of the base model; null: nothing. @throws {UserError} */
export function saidEmbedder({ folder, adapter }: Pick<Embeds, "folder" | "adapter">): SaidEmbedder | null {
  const own = adapter && readEmbedder(dirname(adapter.path));
  if (!own) return readEmbedder(folder);
  // An adapter's files speak of no prompts.
  const { prompts, defaultPrompt } = attempt(() => readEmbedder(folder)) ?? own;
  return { ...own, prompts, defaultPrompt };
}

/** The pooling of a model whose files say none, as sentence-transformers has it: the last token of a causal model sees all others. */
export function usualPooling({ encoder }: Pick<ModelConfig, "encoder">): Pooling {
  return encoder === null ? "last" : "mean";
}

/**
 * Settles how a model makes embeddings.
 * @throws {UserError} a model that makes none, wishes that it cannot grant
 */
export function embeddingOf(model: Embeds, wishes: EmbeddingWishes = {}): Embedding {
  expectEmbedder(model);
  const { config } = model;
  const said = saidEmbedder(model);
  const dense = said?.dense ?? [];
  const width = dense.at(-1)?.outputs ?? config.hiddenSize;
  const { dimensions = said?.dimensions ?? width } = wishes;
  if (dimensions > width)
    throw new UserError(`--dimensions ${dimensions}: the embeddings of ${nameOf(model)} have ${width} numbers`);
  const context = contextLimit(config);
  const maxLength = wishes.sequenceLength ?? Math.min(said?.maxLength ?? context, context);
  checkContext(config, maxLength);
  const prompt = promptOf(model, said, wishes);
  if (prompt !== "" && said?.poolsPrompt === false)
    throw new UserError(
      `${nameOf(model)} leaves prompts out of its embeddings (include_prompt false in 1_Pooling), which is not supported; expected a model that does not, or no prompt`,
    );
  return {
    pooling: wishes.pooling ?? said?.pooling ?? usualPooling(config),
    dense,
    normalizes: wishes.normalize ?? said?.normalizes ?? false,
    dimensions,
    prompt,
    lowerCase: said?.lowerCase ?? false,
    maxLength,
  };
}

/** @throws {UserError} a prompt that the model does not have */
function promptOf(model: Embeds, said: SaidEmbedder | null, { prompt, promptName }: EmbeddingWishes): string {
  if (prompt !== undefined && promptName !== undefined)
    throw new UserError("--prompt and --prompt-name exclude each other; give one");
  const name = promptName ?? (prompt === undefined ? said?.defaultPrompt : null) ?? null;
  if (name === null) return prompt ?? "";
  const known = said?.prompts ?? {};
  if (Object.hasOwn(known, name)) return known[name]!;
  const names = Object.keys(known).join(", ");
  throw new UserError(
    `--prompt-name ${name}: ${nameOf(model)} has ${names === "" ? "no prompts; give the text itself with --prompt" : `the prompts ${names}`}; got ${show(name)}`,
  );
}

/** @throws {UserError} a model whose hidden states no embeddings come of */
export function expectEmbedder(model: Pick<Embeds, "name" | "config" | "adapter" | "classifier">): void {
  const { config, classifier } = model;
  if (config.textHead === null && classifier === null) return;
  throw new UserError(
    `${nameOf(model)} judges whole texts (a classifier or reward model) and makes no embeddings; expected a text encoder or a model that generates text`,
  );
}

/** The model whose head gives a text's embedding. @param dense layers behind the pooling */
export function withPooling(model: ModelConfig, pooling: Pooling, dense: readonly DenseLayer[] = []): ModelConfig {
  const outputs = dense.at(-1)?.outputs ?? model.hiddenSize;
  return { ...model, textHead: { outputs, padId: null, pooling, ...(dense.length > 0 && { dense }) } };
}

/** Layers behind the pooling that a model's files say. @throws {UserError} files that are damaged */
export const denseOf = (model: Pick<Embeds, "folder" | "adapter">): readonly DenseLayer[] => saidEmbedder(model)?.dense ?? [];
