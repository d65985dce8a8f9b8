import { removeChecksums, writeChecksums } from "../../../base/files/checksums.ts";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../../base/errors.ts";
import { makeFolder, writeTextAtomic } from "../../../base/files/files.ts";
import { CHAT_TEMPLATE_FILE } from "../../../hf/weights/template-files.ts";
import { CLASSIFIER_FILE, classifierText } from "../../../hf/config/classifier.ts";
import { narrow } from "../../../base/float16.ts";
import { copyCompanions, type Learned, NOTHING_LEARNED, writeEmbedder, writeWeights } from "../../../hf/weights/model-folder.ts";
import { type ConfigToWrite, EMBEDDING_TASK } from "../../../hf/peft/adapter-config.ts";
import { writeAdapter, writeAdapterConfig } from "../../../hf/peft/peft.ts";
import { describeModules, isSaved } from "../../../hf/peft/peft-modules.ts";
import { fileShape } from "../../../load/adapter.ts";
import { isAdapterPart, isTransposed, PART_SUFFIXES } from "../../../models/adapters/index.ts";
import { transpose } from "../../../models/adapters/low-rank.ts";
import { storedName } from "../../../models/adapters/expert-parameters.ts";
import { bareName, isAdapter, parameterOf, withoutPrefix } from "../../../models/adapters/names.ts";
import { type ParamInfo, readTensor } from "../../../runtime/resident.ts";
import { fuseExperts, storedTensors } from "../../../hf/weights/fused-experts.ts";
import { isVision } from "../../../hf/weights/model-weights.ts";
import { isDense, writeDense } from "../../../hf/weights/dense.ts";
import { readBytes, type TensorSource } from "../../../hf/weights/safetensors.ts";
import { type TensorData } from "../../../hf/weights/safetensors-write.ts";
import { byteLength } from "../../../graph/types.ts";
import { type FloatType } from "../../../base/dtype.ts";
import { PIECE, readPieces } from "../../../runtime/executor.ts";
import type { ModelConfig } from "../../../models/config.ts";
import { hasAdapters } from "../../../models/tuning.ts";
import { visionPrefixes } from "../../../models/families/index.ts";
import type { TrainConfig } from "../../config.ts";
import { settingsOf } from "../../step/tuning.ts";
import type { Engine } from "../../step/engine.ts";
import { notFinite } from "../../step/finite.ts";
import { RUN_FILES } from "../folder.ts";

/** A model with adapters, in an executor's memory or not. */
export interface AdaptedModel extends Pick<Engine, "config" | "tuning"> {
  readonly resident: { readonly params: readonly ParamInfo[] };
}

/** Modules that PEFT must not adapt although they have the names of targets, as a regular expression; null: none. */
function visionModules(config: ModelConfig): string | null {
  const prefixes = visionPrefixes(config);
  if (prefixes.length === 0) return null;
  return String.raw`model\.(${prefixes.map((prefix) => prefix.slice("model.".length, -1)).join("|")})\..*`;
}

/** Where a full run keeps the base model's small files while it trains: the base model may go away before the end. */
const COMPANIONS = "base-files";

/** Copies the files of the base model that the trained model is to have beside its weights. @throws {UserError} */
export function keepCompanions(baseFolder: string, folder: string): void {
  const kept = join(folder, COMPANIONS);
  makeFolder(kept);
  copyCompanions(baseFolder, kept);
}

/**
 * Writes what was trained: a PEFT adapter, or a whole model folder in the base's dtypes. The weights come behind the other files, and
 * the checksums behind the weights.
 * @throws {UserError} values that are not finite, a full disk
 */
export function exportTrained(folder: string, engine: Engine, config: TrainConfig, learned = NOTHING_LEARNED): void {
  const bad = notFinite(engine);
  if (bad !== null) {
    throw new UserError(
      `${bad} holds a value that is infinite or no number: training diverged, and nothing is exported. Lower --learning-rate or lengthen --warmup`,
    );
  }
  removeChecksums(folder);
  writeChecksums(folder, writeTrained(folder, engine, config, learned));
  rmSync(join(folder, COMPANIONS), { recursive: true, force: true });
}

/** Returns the names of the files. */
function writeTrained(folder: string, engine: Engine, config: TrainConfig, learned: Learned): string[] {
  if (config.method !== "full") {
    const described = adapterConfigOf(engine, config);
    const isAdapted = (module: string) => described.setups.has(module);
    const stored = trainedTensors(engine, () => "f32").map((tensor) => ({ ...tensor, name: storedName(tensor.name, isAdapted) }));
    const tensors = stored.map((tensor) =>
      described.task === EMBEDDING_TASK ? { ...tensor, name: bareName(tensor.name, engine.config.modulePrefix) } : tensor,
    );
    writeAdapter(folder, { ...described, tensors });
    return [
      RUN_FILES.adapterConfig,
      RUN_FILES.adapter,
      ...writeLearned(folder, learned),
      ...writeBehind(folder, engine, learned, []),
    ];
  }
  const { source, resident } = engine;
  const stored = (name: string): FloatType => (source.tensors.get(name)?.dtype ?? "f32") as FloatType;
  const trained = fuseExperts(trainedTensors(engine, stored), source.tensors);
  const frozen = new Set(resident.params.filter(({ trainable }) => !trainable).map(({ name }) => name));
  const companions = copyCompanions(join(folder, COMPANIONS), folder, undefined, learned);
  const base = baseTensors(source, (name) => frozen.has(name) || isVision(name));
  const behind = writeBehind(folder, engine, learned, trained);
  return [
    ...companions,
    ...behind,
    ...writeWeights(
      folder,
      [...trained, ...base].filter(({ name }) => !isBehind(name, learned)),
    ),
  ];
}

const isBehind = (name: string, { embedder }: Learned): boolean => isDense(name, embedder?.dense ?? []);

/** Writes the layers behind the pooling, trained or as they are. Returns the files' names. */
function writeBehind(folder: string, { source }: Engine, learned: Learned, trained: readonly TensorData[]): string[] {
  const own = new Map(trained.map((tensor) => [tensor.name, tensor]));
  const tensors = baseTensors(source, (name) => isBehind(name, learned)).map((tensor) => own.get(tensor.name) ?? tensor);
  return writeDense(folder, learned.embedder?.dense ?? [], tensors);
}

/** Makes an adapter folder of a folder that holds the parameters already, as a checkpoint's does. @throws {UserError} */
export function describeAdapter(folder: string, engine: Engine, config: TrainConfig, learned: Learned): void {
  if (config.method === "full") return;
  writeAdapterConfig(folder, adapterConfigOf(engine, config));
  writeLearned(folder, learned);
}

/** Writes what PEFT's files do not say of an adapter. Returns the files' names. */
function writeLearned(folder: string, learned: Learned): string[] {
  return [...writeTemplate(folder, learned), ...writeClassifier(folder, learned), ...writeEmbedder(folder, learned.embedder)];
}

/** The template that an adapter was trained with, if it is not its base model's: to be used in talks with it. Returns the file's name. */
function writeTemplate(folder: string, { chatTemplate }: Learned): string[] {
  if (chatTemplate === null) return [];
  writeTextAtomic(join(folder, CHAT_TEMPLATE_FILE), chatTemplate);
  return [CHAT_TEMPLATE_FILE];
}

/** Writes the meaning of the head's numbers, of which PEFT's files do not speak. Returns the file's name. */
function writeClassifier(folder: string, { textHead }: Learned): string[] {
  if (textHead === null) return [];
  writeTextAtomic(join(folder, CLASSIFIER_FILE), classifierText(textHead.classifier));
  return [CLASSIFIER_FILE];
}

/** Describes an adapter as PEFT does. */
export function adapterConfigOf(engine: AdaptedModel, config: TrainConfig): ConfigToWrite {
  const params = engine.resident.params.filter(({ trainable }) => trainable);
  const { tuning } = engine;
  const setups = new Map<string, object>();
  for (const { name } of params) {
    const module = adaptedModule(name);
    const setup = module !== null && hasAdapters(tuning) ? tuning.adapts(module) : null;
    if (setup) setups.set(module!, setup);
  }
  const isWrapped = visionModules(engine.config) !== null;
  const settings = settingsOf(config, engine.config);
  const described = describeModules([...setups.keys()], engine.config);
  const task = taskOf(engine.config);
  const { modulePrefix } = engine.config;
  return {
    ...settings,
    ...described,
    targets: task === EMBEDDING_TASK ? described.targets.map((name) => withoutBegin(name, modulePrefix)) : described.targets,
    setups:
      task === EMBEDDING_TASK ? new Map([...setups].map(([name, setup]) => [withoutBegin(name, modulePrefix), setup])) : setups,
    // In a model with images a name's end would mean modules of the other parts too.
    modulesToSave: isWrapped ? savedModules(params, settings.modulesToSave) : settings.modulesToSave,
    base: config.model,
    task,
    exclude: visionModules(engine.config),
  };
}

const withoutBegin = (name: string, begin: string): string => (name.startsWith(begin) ? name.slice(begin.length) : name);

function taskOf({ textHead, encoder }: ModelConfig): ConfigToWrite["task"] {
  if (textHead !== null && !textHead.options) return textHead.pooling === undefined ? "SEQ_CLS" : EMBEDDING_TASK;
  return encoder === null ? "CAUSAL_LM" : null;
}

/** The module that a parameter is a part of an adapter of, or null. */
function adaptedModule(name: string): string | null {
  const plain = withoutPrefix(name);
  const suffix = plain === null ? undefined : PART_SUFFIXES.find((candidate) => plain.endsWith(`.${candidate}`));
  return suffix === undefined ? null : plain!.slice(0, -suffix.length - 1);
}

/** Modules that are trained whole for some names, by their own. */
function savedModules(params: readonly ParamInfo[], names: readonly string[]): string[] {
  const wholes = params.filter((param) => isAdapter(param) && adaptedModule(param.name) === null);
  const parameters = wholes.map(({ name }) => parameterOf(withoutPrefix(name)!).parameter).filter((name) => isSaved(name, names));
  return [...new Set(parameters.map((name) => name.slice(0, name.lastIndexOf("."))))];
}

/** Tensors of the base model, chosen by the module's name, as they are. */
function baseTensors(source: TensorSource, isWanted: (name: string) => boolean): TensorData[] {
  const wanted = storedTensors(new Map([...source.tensors].filter(([module]) => isWanted(module))));
  return [...wanted.values()].flatMap((entry) => {
    const { name, dtype, shape } = entry;
    return dtype !== null ? [{ name, dtype, shape, data: () => readBytes(source, entry) }] : [];
  });
}

/** Returns what was trained, with the parts of adapters that stayed as they were, under their names: read piece by piece, in the dtype that `typeOf` gives. */
function trainedTensors(engine: Engine, typeOf: (name: string) => FloatType): TensorData[] {
  const { params, param } = engine.resident;
  const buffer = new Uint8Array(PIECE);
  const halves = new Uint16Array(PIECE / 4);
  return params
    .filter((info) => info.trainable || isAdapterPart(info))
    .map(({ name, type }) => {
      const dtype = typeOf(name);
      if (isTransposed(name)) {
        const [rows, columns] = type.shape as [number, number];
        const data = () => transpose(readTensor(engine.executor, param.get(name)!, type), rows, columns);
        return { name, dtype, shape: fileShape({ name, type }), data };
      }
      const pieces = function* () {
        for (const piece of readPieces(engine.executor, param.get(name)!, byteLength(type), buffer)) {
          if (dtype === "f32") yield piece;
          else {
            const values = new Float32Array(piece.buffer, piece.byteOffset, piece.byteLength / 4);
            const narrowed = halves.subarray(0, values.length);
            narrow(values, dtype, narrowed);
            yield narrowed;
          }
        }
      };
      return { name, dtype, shape: type.shape, data: { pieces } };
    });
}
