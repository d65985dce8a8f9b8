import { existsSync } from "node:fs";
import { join } from "node:path";
import { verifyChecksums } from "../base/files/checksums.ts";
import { hashFile } from "../base/files/files.ts";
import { lazily } from "../base/lazily.ts";
import { type ChatSettings, withChatSettings } from "../data/chat/settings.ts";
import { CHAT_TEMPLATE_FILE } from "../hf/weights/template-files.ts";
import { loadTokenizer, type Tokenizer } from "../data/tokens/tokenizer.ts";
import { type DeviceOptions, openDevice } from "../device.ts";
import { type Classifier, readClassifier, readOptions } from "../hf/config/classifier.ts";
import { loadConfig } from "../hf/config/config.ts";
import { attempt, UserError } from "../base/errors.ts";
import { readEmbedder } from "../hf/config/embeddings.ts";
import { withDense } from "../hf/weights/dense.ts";
import { predictsTokens } from "../models/chain/segments.ts";
import type { ModelConfig } from "../models/config.ts";
import { familyOf } from "../models/families/index.ts";
import { examineWeights } from "../hf/weights/examine.ts";
import { openAdapterFor } from "../hf/peft/check-adapter.ts";
import type { Adapter } from "../hf/peft/peft.ts";
import { visionNote, withOwnHead } from "../hf/weights/model-weights.ts";
import { openModelWeights } from "../gguf/read/open-weights.ts";
import type { TensorSource } from "../hf/weights/safetensors.ts";
import type { Executor } from "../runtime/executor.ts";
import { findModel, type FindModelOptions, type FoundModel, type NamedModel } from "./find-model.ts";
import { expectTokens, withHeadOf, withOptions } from "./text-head.ts";
import { checkUnread } from "./unread.ts";
import { storageOf, type WeightStorage } from "./weights.ts";

/** A model whose files are open; no weight is in memory yet. */
export interface OpenModel {
  /** The base model as it was named. */
  readonly name: string;
  /** The base model's folder on this machine. */
  readonly folder: string;
  readonly config: ModelConfig;
  /** Read when it is first asked for. @throws {UserError} a folder without a tokenizer */
  readonly tokenizer: Tokenizer;
  readonly source: TensorSource;
  readonly adapter: Adapter | null;
  /** The meaning of the numbers that a head for texts gives; null: the model predicts tokens. */
  readonly classifier: Classifier | null;
  /** The identity of the base model. */
  readonly identity: ModelIdentity;
  close(): void;
}

/** SHA-256, in hexadecimal, of what decides the numbers of a model. */
export interface ModelIdentity {
  /** The file `config.json`. */
  readonly config: string;
  /** All weight files; empty where they were not asked for. */
  readonly weights: string;
  /** Tokenizer and chat templates. */
  readonly tokenizer: string;
}

export interface OpenModelOptions extends FindModelOptions {
  /** How chats are rendered, where that is not as the folder says. */
  readonly chats?: ChatSettings | undefined;
  /** Called with a sentence that a user should read once, such as that a vision part is left out. */
  readonly onNote?: ((text: string) => void) | undefined;
  /**
   * How weights and checksums are checked: `kept` believes what an earlier check of the same, unchanged files has found, `fresh` reads
   * all files, `none` reads none (default: `kept`).
   */
  readonly check?: "kept" | "fresh" | "none" | undefined;
  /**
   * What the model has to predict: what comes next in a text, which encoders and models that judge texts do not, labels that are given, or
   * anything at all (default: what comes next).
   */
  readonly predicts?: "next tokens" | "given labels" | "anything" | undefined;
  /** The provider of matrix products on `wasm` (default: the kernels' own, which are fastest for the few rows that generation has). */
  readonly matmul?: DeviceOptions["matmul"];
}

/**
 * Opens a model, and an adapter on it; see `findModel`.
 * @throws {UserError}
 */
export async function openModel(named: NamedModel & ChatSettings, options: OpenModelOptions = {}): Promise<OpenModel> {
  return openFound(await findModel(named, options), { chats: named, ...options });
}

/** As `openModel`, of a model that is on this machine. @throws {UserError} */
export function openFound({ name, folder, adapter: path }: FoundModel, options: OpenModelOptions = {}): OpenModel {
  const { onNote, check = "kept", chats = {}, predicts = "next tokens" } = options;
  const declared = loadConfig(folder);
  checkPrediction(declared, folder, predicts);
  const dense = predicts === "anything" ? (attempt(() => readEmbedder(folder))?.dense ?? []) : [];
  const source = withDense(openModelWeights(folder, declared), folder, dense);
  let adapter: Adapter | null = null;
  const close = () => {
    source.close();
    adapter?.source.close();
  };
  try {
    const base = withOwnHead(declared, source);
    if (path !== null) adapter = openAdapterFor(source, path, base);
    const judge = withHeadOf(base, adapter);
    const options = judge.textHead === null && predicts === "anything" ? readOptions(path ?? folder, base.vocabSize) : null;
    const config = options === null ? judge : withOptions(judge, options.options);
    checkPrediction(config, path ?? folder, predicts);
    const classifier = options ?? (config.textHead && readClassifier(folder, path, config.textHead.outputs));
    if (base !== declared)
      onNote?.("the checkpoint has a head of its own, so the head is not tied to the embedding, whatever config.json says");
    for (const note of [visionNote(source), checkUnread(base, source)]) if (note !== null) onNote?.(note);
    const reading = { fresh: check === "fresh" };
    if (check !== "none") {
      verifyChecksums(folder, reading);
      if (path !== null) verifyChecksums(path, reading);
      if (adapter) examineWeights(adapter.source, reading);
    }
    const weights = check === "none" ? "" : examineWeights(source, reading);
    // A model can be computed with, and planned, without a tokenizer.
    const tokenizer = lazily(() => withChatSettings(loadTokenizer(folder), withTemplateOf(path, chats)));
    return {
      name,
      folder,
      config: classifier === null ? config : withPadding(config, classifier),
      source,
      adapter,
      classifier,
      get tokenizer() {
        return tokenizer();
      },
      get identity() {
        return { config: hashFile(join(folder, "config.json")), weights, tokenizer: tokenizer().fingerprint };
      },
      close,
    };
  } catch (error) {
    close();
    throw error;
  }
}

/** @throws {UserError} a model that judges texts, or an encoder, that is to continue them; an encoder without the head that is needed */
export function checkPrediction(
  config: ModelConfig,
  name: string,
  predicts: NonNullable<OpenModelOptions["predicts"]> = "next tokens",
): void {
  if (predicts === "anything") return;
  expectTokens(config, name);
  if (config.encoder === null) return;
  const { models, architecture } = familyOf(config);
  if (predicts === "next tokens") {
    throw new UserError(
      `${name} holds an encoder (${models.join(", ")}), which sees each text from both sides and predicts no next tokens: expected a model that generates text; an encoder learns labelled texts (--objective classify), embeddings (embed), rankings (rerank) and masked tokens (mlm)`,
    );
  }
  if (!predictsTokens(config)) {
    throw new UserError(`${name} holds an encoder without a head, which predicts no tokens; expected a ${architecture}`);
  }
}

/** The head as its own files describe it. */
function withPadding(config: ModelConfig, { padId }: Classifier): ModelConfig {
  return { ...config, textHead: { ...config.textHead!, padId: padId ?? config.textHead!.padId } };
}

/** The tokenizer of a model with an adapter of a folder beside it, which may have a chat template of its own. */
export function tokenizerWith({ tokenizer }: Pick<OpenModel, "tokenizer">, adapter: string): Tokenizer {
  const own = withTemplateOf(adapter, {});
  return own.chatTemplate === undefined ? tokenizer : withChatSettings(tokenizer, own);
}

/** Opens an adapter for a model that is open, and checks its files. @throws {UserError} */
export function openAdapterOf({ source, config }: Pick<OpenModel, "source" | "config">, folder: string): Adapter {
  const adapter = openAdapterFor(source, folder, config);
  try {
    expectTokens(withHeadOf(config, adapter), folder);
    verifyChecksums(folder, { fresh: false });
    examineWeights(adapter.source, { fresh: false });
    return adapter;
  } catch (error) {
    adapter.source.close();
    throw error;
  }
}

/** An adapter may have the chat template beside it that it was trained with. */
function withTemplateOf(adapter: string | null, chats: ChatSettings): ChatSettings {
  const own = adapter === null ? null : join(adapter, CHAT_TEMPLATE_FILE);
  return own !== null && chats.chatTemplate === undefined && existsSync(own) ? { ...chats, chatTemplate: own } : chats;
}

type NamedModelAndDevice = NamedModel & ChatSettings & WeightStorage & Pick<DeviceOptions, "device" | "threads">;

/** A model and the executor that runs it; `close` frees both. */
export interface ModelOnDevice {
  readonly model: OpenModel;
  readonly executor: Executor;
  close(): void;
}

/** Opens a model, then the device for it. @throws {UserError} a model that is missing, a device that cannot be used */
export async function openModelOnDevice(named: NamedModelAndDevice, options: OpenModelOptions = {}): Promise<ModelOnDevice> {
  const model = await openModel(named, options);
  try {
    const { matmul = "codes" } = options;
    const device = await openDevice({ device: named.device, threads: named.threads, dtype: named.dtype, matmul });
    if (device.notice !== null) options.onNote?.(device.notice);
    const close = () => {
      device.close();
      model.close();
    };
    return { model, executor: device.executor, close };
  } catch (error) {
    model.close();
    throw error;
  }
}

/** Runs `use` with an open model and an executor, and closes both. @throws {UserError} a device that cannot be used */
export async function withModel<T>(
  named: NamedModelAndDevice,
  use: (model: OpenModel & WeightStorage, executor: Executor) => Promise<T>,
  options: OpenModelOptions = {},
): Promise<T> {
  const { model, executor, close } = await openModelOnDevice(named, options);
  try {
    return await use({ ...model, ...storageOf(named) }, executor);
  } finally {
    close();
  }
}
