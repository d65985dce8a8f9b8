import { embeddingOf, saidEmbedder } from "../../load/embedder.ts";
import type { OpenModel } from "../../load/open-model.ts";
import type { ReadWeightsOptions } from "../../load/open-weights.ts";
import type { WeightStorage } from "../../load/weights.ts";
import type { Executor } from "../../runtime/executor.ts";
import { roomOf } from "../open-decoder.ts";
import { openEmbedder, type TextEmbedder } from "./embedder.ts";
import { type Judge, openJudge } from "./judge.ts";

/** A model that reads whole texts, with its weights in memory. */
export type LoadedTexts =
  | { readonly kind: "embeds"; readonly embedder: Pick<TextEmbedder, "dimensions" | "maker" | "embed"> }
  | { readonly kind: "judges"; readonly judge: Pick<Judge, "classifier" | "maker" | "judge"> };

/** The use of a model: it generates text, makes embeddings, or judges whole texts. */
export type ModelKind = LoadedTexts["kind"] | "answers";

/** Returns what a model is for: an encoder without a head for texts, and one whose files say how embeddings are made, makes those. @throws {UserError} files that are damaged */
export function kindOf(model: Pick<OpenModel, "folder" | "config" | "adapter" | "classifier">): ModelKind {
  if (model.classifier) return "judges";
  return model.config.encoder !== null || saidEmbedder(model) !== null ? "embeds" : "answers";
}

/** Loads a model that reads whole texts. Embeddings have length 1. @throws {UserError} weights that are missing or do not fit */
export async function openTexts(
  executor: Executor,
  { model, maxTokens }: { readonly model: OpenModel & WeightStorage; readonly maxTokens: number | undefined },
  reading: ReadWeightsOptions,
): Promise<{ readonly texts: LoadedTexts; readonly context: number; close(): void }> {
  const { classifier } = model;
  if (classifier) {
    const judge = await openJudge(executor, { model, classifier, maxTokens }, reading);
    return { texts: { kind: "judges", judge }, context: judge.context, close: judge.close };
  }
  const said = embeddingOf(model, { normalize: true });
  const maxLength = Math.min(said.maxLength, roomOf(model.config, maxTokens));
  const embedder = await openEmbedder(executor, { model, embedding: { ...said, maxLength }, truncate: false }, reading);
  return { texts: { kind: "embeds", embedder }, context: maxLength, close: embedder.close };
}
