import { attempt, UserError } from "../base/errors.ts";
import { show } from "../base/json.ts";
import { createLabelFinder, type FoundLabels } from "../data/examples/judged/labels.ts";
import { readEntries } from "../data/examples/dataset.ts";
import { readMapping } from "../data/examples/formats.ts";
import { parseSources, trainingFiles } from "../data/examples/sources.ts";
import type { Classifier } from "../hf/config/classifier.ts";
import type { TensorSource } from "../hf/weights/safetensors.ts";
import type { OpenModel, OpenModelOptions } from "../load/open-model.ts";
import { denseOf, expectEmbedder, saidEmbedder, usualPooling, withPooling } from "../load/embedder.ts";
import { nameOf, withNewHead, withOptions } from "../load/text-head.ts";
import type { ModelConfig, Pooling } from "../models/config.ts";
import { classifierOf, familyOf, modulesOf, textHeadOf, textHeadShapes } from "../models/families/index.ts";
import { BALANCED, checkLabelSettings } from "../objectives/classify.ts";
import { objectiveOf, type ObjectiveSettings, otherKind } from "../objectives/index.ts";
import type { TrainConfig } from "./config.ts";
import { withListSize } from "./list-size.ts";

/** A run's configuration and model with the head that its objective asks for. */
export interface WithHead {
  /** With the labels that were found, and with the head among what is trained whole. */
  readonly config: TrainConfig;
  readonly model: ModelConfig;
  readonly source: TensorSource;
  /** The meaning of the head's numbers; null: it predicts tokens. */
  readonly classifier: Classifier | null;
  /** True if texts are put into lower case first; absent: they are not. */
  readonly lowerCase?: boolean;
}

type Opened = Pick<OpenModel, "name" | "folder" | "config" | "source" | "adapter" | "tokenizer" | "classifier">;

/** Returns what a model is to predict for an objective: next tokens, or anything that a head for texts can be put on. */
export function predictionOf(settings: ObjectiveSettings): OpenModelOptions["predicts"] {
  const { head, masked } = objectiveOf(settings);
  return head.kind === "logits" ? "anything" : masked === undefined ? "next tokens" : "given labels";
}

/**
 * Gives a model the head that the objective asks for. One that judges texts keeps its head and its labels; any other gets a new one for
 * the labels that the training examples have.
 * @throws {UserError} labels that do not fit each other, the settings or the model; a model that has no such head
 */
export async function withHead(
  asked: TrainConfig,
  opened: Opened,
  { signal, onNote }: { readonly signal?: AbortSignal | undefined; readonly onNote?: ((text: string) => void) | undefined },
): Promise<WithHead> {
  const { config: model, source, tokenizer } = opened;
  const config = await withListSize(asked, filesOf(asked), signal);
  const objective = objectiveOf(config);
  expectReader(config, opened);
  if (objective.head.kind !== "logits") return { config, model, source, classifier: null };
  if (objective.head.pooling !== undefined) {
    checkEmbedding(config, opened);
    const settled = withSettledPooling(config, opened, onNote);
    const { lowerCase = false, dense } = attempt(() => saidEmbedder(opened)) ?? {};
    return { config: settled, model: withPooling(model, settled.pooling, dense), source, classifier: null, lowerCase };
  }
  const known = opened.classifier;
  if (config.optionTokens || known?.options) return withOptionTokens(config, opened, { signal, onNote });
  checkFamily(config, opened);
  const padId = known?.padId ?? model.padTokenId ?? tokenizer.padId ?? null;
  const found = objective.accepts.includes("labelled") ? await findLabels(config, signal) : null;
  const ranks = objective.accepts.includes("ranked");
  const classifier: Classifier = {
    ...classifierFor(config, found, known),
    padId,
    temperature: null,
    ...(ranks && { activation: known?.activation ?? "sigmoid" }),
  };
  if (found) {
    checkLabelSettings(config, classifier.kind);
    onNote?.(describeLabels(classifier, found));
  }
  const outputs = classifier.kind === "number" ? 1 : classifier.labels.length;
  if (model.textHead && model.textHead.outputs !== outputs) {
    throw new UserError(
      `${nameOf(opened)} has a head that gives a text ${model.textHead.outputs} numbers, and ${outputs} are needed; take a base model without such a head, or the labels that it knows`,
    );
  }
  const { config: whole, ...headed } = withOutputs(config, opened, outputs, padId, config.seed);
  return { config: { ...whole, ...(found && labelSettings(config, classifier, found)) }, ...headed, classifier };
}

/**
 * Gives a model no head: its own picks among the tokens that stand for the classes.
 * @throws {UserError} labels of another kind, or whose tokens are not told apart; a model that predicts no tokens
 */
async function withOptionTokens(
  config: TrainConfig,
  opened: Opened,
  { signal, onNote }: Parameters<typeof withHead>[2],
): Promise<WithHead> {
  const { config: model, source, tokenizer, classifier: known } = opened;
  checkOptionTokens(config, opened);
  const found = await findLabels(config, signal);
  const { kind, labels } = classifierFor(config, found, known);
  checkLabelSettings({ ...config, optionTokens: true }, kind);
  const { optionTokens } = await import("../data/samples/judged/options.ts");
  const options = known?.options ?? optionTokens(tokenizer, labels);
  const classifier: Classifier = { kind, labels, padId: null, temperature: null, options };
  onNote?.(`${describeLabels(classifier, found)}; their tokens are ${tokenNames(tokenizer, options)}`);
  return {
    config: { ...config, optionTokens: true, ...labelSettings(config, classifier, found) },
    model: withOptions(model, options),
    source,
    classifier,
  };
}

function tokenNames(tokenizer: Opened["tokenizer"], options: readonly number[]): string {
  const named = options.slice(0, NAMED).map((id) => `${show(tokenizer.decode([id]))} (${id})`);
  return `${named.join(", ")}${options.length > NAMED ? ` and ${options.length - NAMED} more` : ""}`;
}

/** @throws {UserError} a model without a head that predicts next tokens, and settings that change that head */
function checkOptionTokens(settings: HeadSettings, opened: Pick<Opened, "name" | "adapter" | "config" | "classifier">): void {
  const { config: model, classifier } = opened;
  if (model.encoder !== null || (classifier && !classifier.options))
    throw new UserError(
      `--option-tokens: ${nameOf(opened)} ${model.encoder === null ? "has a head that judges texts" : "is a text encoder"}, and picks no answer; expected a model that generates text, or leave the flag away`,
    );
  const { objective } = settings;
  if (objective !== "classify")
    throw new UserError(
      `--objective ${objective}: ${nameOf(opened)} picks among the tokens of ${classifier!.labels.join(", ")}, which is for --objective classify; take its base model`,
    );
  refuseHead(settings, model, "--option-tokens reads single rows of that head, which adapters do not change");
}

/** The settings with the pooling that is asked for, or else that of the model's files, or the usual one. @throws {UserError} files that say one that is not supported */
function withSettledPooling<C extends ObjectiveSettings>(
  config: C,
  opened: Pick<Opened, "folder" | "adapter" | "config">,
  onNote?: (text: string) => void,
): C & { readonly pooling: Pooling } {
  const { pooling } = config;
  if (pooling === undefined) return { ...config, pooling: saidEmbedder(opened)?.pooling ?? usualPooling(opened.config) };
  const said = attempt(() => saidEmbedder(opened));
  if (said && said.pooling !== pooling)
    onNote?.(
      `the base model's 1_Pooling says ${said.pooling}, and --pooling is ${pooling}: training begins with other embeddings than its own`,
    );
  return { ...config, pooling };
}

/** @throws {UserError} a model that sees one side of a token, where both are wanted */
export function expectReader(settings: ObjectiveSettings, opened: Pick<Opened, "name" | "adapter" | "config">): void {
  if (objectiveOf(settings).masked === undefined || opened.config.encoder) return;
  throw new UserError(
    `--objective ${settings.objective}: ${nameOf(opened)} generates text, and sees nothing of what follows a token; expected a text encoder with a head for masked tokens, such as a BERT`,
  );
}

type HeadSettings = ObjectiveSettings & Pick<TrainConfig, "method" | "modulesToSave" | "targets">;

/** A configuration and a model with a head that gives a text so many numbers, which is trained whole where it is not by itself. */
function withOutputs<C extends HeadSettings>(
  config: C,
  { config: model, source, adapter }: Pick<Opened, "config" | "source" | "adapter">,
  outputs: number,
  padId: number | null,
  seed = 0,
) {
  const isNew = (name: string) => !source.tensors.has(name);
  const { saved: head, dense } = textHeadOf(model);
  // PEFT leaves a BERT's pooler as it is; a new one has nothing to be left.
  const wanted = dense?.saved && isNew(`${dense.module}.weight`) ? [head, dense.saved] : [head];
  const missing = wanted.filter((name) => !config.modulesToSave?.includes(name));
  const isWhole = config.method === "full" || adapter !== null || missing.length === 0;
  return {
    config: isWhole ? config : { ...config, modulesToSave: [...(config.modulesToSave ?? []), ...missing] },
    model: { ...model, textHead: { outputs, padId } },
    source: [...textHeadShapes(model, outputs).keys()].some(isNew) ? withNewHead(source, model, outputs, seed) : source,
  };
}

/** Classes that are planned for where nothing names them. */
const PLANNED_CLASSES = 2;

/**
 * As `withHead`, for a plan: no example is read.
 * @throws {UserError} a model that has no such head
 */
export function withPlannedHead<C extends HeadSettings>(
  config: C,
  opened: Opened,
): { readonly config: C; readonly model: ModelConfig; readonly source: TensorSource } {
  const { config: model, source } = opened;
  const { head } = objectiveOf(config);
  expectReader(config, opened);
  if (head.kind !== "logits") return { config, model, source };
  if (head.pooling !== undefined) {
    const settled = withSettledPooling(config, opened);
    return { config: settled, model: withPooling(model, settled.pooling, attempt(() => denseOf(opened)) ?? []), source };
  }
  const { classifier } = opened;
  if (config.optionTokens || classifier?.options) {
    checkOptionTokens(config, opened);
    // Which tokens they are changes no size.
    const options = Array.from({ length: classifier?.labels.length ?? config.labels?.length ?? PLANNED_CLASSES }, (_, id) => id);
    return { config: { ...config, optionTokens: true }, model: withOptions(model, options), source };
  }
  checkFamily(config, opened);
  return withOutputs(config, opened, model.textHead?.outputs ?? (head.outputs || PLANNED_CLASSES), model.padTokenId);
}

/**
 * The settings of an objective with the labels of a model that is to be measured.
 * @throws {UserError} an objective that the model's head is not for
 */
export function withLabelsOf<S extends ObjectiveSettings>(
  settings: S,
  opened: Pick<OpenModel, "name" | "folder" | "config" | "adapter" | "classifier">,
): S {
  const { classifier } = opened;
  const objective = objectiveOf(settings);
  if (objective.head.kind !== "logits") return settings;
  if (objective.head.pooling !== undefined) {
    expectEmbedder(opened);
    return withSettledPooling(settings, opened);
  }
  if (classifier === null) {
    throw new UserError(
      `--objective ${settings.objective} measures models that judge texts, and ${nameOf(opened)} predicts tokens; train it with --objective ${settings.objective} first, or give --adapter`,
    );
  }
  if (!objective.accepts.includes("labelled")) {
    if (classifier.kind === "number") return settings;
    throw new UserError(
      `--objective ${settings.objective} measures models that give a text one number, and ${nameOf(opened)} has the classes ${classifier.labels.join(", ")}`,
    );
  }
  checkLabelSettings(settings, classifier.kind);
  const { kind: labelKind, labels } = classifier;
  if (settings.optionTokens && !classifier.options)
    throw new UserError(`--option-tokens: ${nameOf(opened)} has a head of its own for its classes; leave the flag away`);
  if (settings.labels && settings.labels.join() !== labels.join())
    throw new UserError(`--labels ${settings.labels.join()}: the model has the labels ${labels.join()}, in this order`);
  return { ...settings, labelKind, ...(labels.length > 0 && { labels: [...labels] }) };
}

/** Classes that a note names. */
const NAMED = 12;

function describeLabels({ kind, labels }: Pick<Classifier, "kind" | "labels">, { counts }: FoundLabels): string {
  if (kind === "number") return "the labels are numbers";
  const named = labels.slice(0, NAMED).map((label) => `${label} ${counts.get(label) ?? 0}`);
  const more = labels.length > NAMED ? ` and ${labels.length - NAMED} more` : "";
  return `${labels.length} classes, ${kind === "single" ? "one" : "any number"} for each text, with so many training examples: ${named.join(", ")}${more}`;
}

/** @throws {UserError} a model that cannot have such a head, and settings of the head that is not there then */
function checkFamily(config: HeadSettings, opened: Opened): void {
  const { objective } = config;
  const { config: model } = opened;
  const isText = model.encoder !== null || model.modulePrefix === "model.";
  if (!isText || classifierOf(familyOf(model)) === null) {
    const what = isText
      ? `of type ${model.family}, for which Transformers has no class that judges texts`
      : "the text part of a model with images";
    throw new UserError(
      `--objective ${objective}: ${nameOf(opened)} is ${what}; expected a model that generates text, such as a Llama or Qwen`,
    );
  }
  refuseHead(
    config,
    model,
    `--objective ${objective} puts the module ${textHeadOf(model).saved} in its place, which is trained whole`,
  );
}

/** @throws {UserError} settings that adapt or save the head for tokens, which `why` there is no sense in */
function refuseHead(
  { targets, modulesToSave }: Pick<HeadSettings, "targets" | "modulesToSave">,
  model: ModelConfig,
  why: string,
): void {
  const head = modulesOf(model).head.split(".").at(-1)!;
  const flag = targets?.some((target) => target === head) ? "targets" : modulesToSave?.includes(head) ? "modules-to-save" : null;
  if (flag !== null) throw new UserError(`--${flag} ${head}: ${why}`);
}

/** @throws {UserError} a model that gives no embeddings, settings of a head that is not there, micro-batches in which there is nothing to contrast */
function checkEmbedding(config: TrainConfig, opened: Opened): void {
  const { objective, batchSize, packing, hardNegatives, gradCache } = config;
  const { config: model } = opened;
  expectEmbedder(opened);
  if (model.encoder === null && model.modulePrefix !== "model.") {
    throw new UserError(
      `--objective ${objective}: ${nameOf(opened)} is the text part of a model with images; expected a text encoder or a model that generates text`,
    );
  }
  const numbers = withPooling(model, "mean", attempt(() => denseOf(opened)) ?? []).textHead!.outputs;
  const wide = config.matryoshka?.find((width) => width > numbers);
  if (wide !== undefined)
    throw new UserError(`--matryoshka ${wide}: the embeddings of ${nameOf(opened)} have ${numbers} numbers`);
  refuseHead(config, model, `--objective ${objective} takes embeddings from before the head, which is not there`);
  const { embedLoss } = config;
  if (embedLoss === "triplet" && hardNegatives === 0)
    throw new UserError(
      `--embed-loss triplet holds a match against hard negatives, and --hard-negatives is 0; say how many each example has`,
    );
  const isOfMany = embedLoss === "contrast" || embedLoss === "cosent";
  if (isOfMany && batchSize === 1 && !gradCache && !packing && hardNegatives === 0) {
    throw new UserError(
      `--objective ${objective} with --batch-size 1: an example is held against the others of its micro-batch; give --batch-size 16 or more`,
    );
  }
}

const filesOf = ({ data }: Pick<TrainConfig, "data">): string[] => parseSources(data).flatMap(({ path }) => trainingFiles(path));

/** Looks at the labels of all training examples. @throws {UserError} bad examples, labels of several kinds */
async function findLabels(config: TrainConfig, signal: AbortSignal | undefined): Promise<FoundLabels> {
  const finder = createLabelFinder(config.labelKind ?? null);
  const reading = { mapping: readMapping(config), unused: () => {} };
  const objective = objectiveOf(config);
  for (const file of filesOf(config)) {
    for await (const { parse } of readEntries(file, reading)) {
      signal?.throwIfAborted();
      const example = parse();
      if (example.kind !== "labelled") throw otherKind(objective, example);
      finder.add(example.label, example.where);
    }
  }
  return finder.found();
}

/** @throws {UserError} labels that the model's head does not know, or that are no choice */
function classifierFor(
  config: TrainConfig,
  found: FoundLabels | null,
  known: Classifier | null,
): Pick<Classifier, "kind" | "labels"> {
  if (found === null) return { kind: "number", labels: [] };
  const { kind, counts } = found;
  const labels = kind === "number" ? [] : (config.labels ?? [...counts.keys()]);
  const twice = labels.find((label, i) => labels.indexOf(label) !== i);
  if (twice !== undefined) throw new UserError(`--labels: ${show(twice)} is given twice`);
  if (known && !known.labels.every((label, id) => label === `LABEL_${id}`)) {
    if (config.labels && config.labels.join() !== known.labels.join())
      throw new UserError(
        `--labels ${config.labels.join()}: the model's head has the labels ${known.labels.join()}, in this order`,
      );
    if (kind !== known.kind && !(kind === "single" && known.kind === "number"))
      throw new UserError(
        `the model's head is for labels of the kind ${known.kind}; those of the training examples are of the kind ${kind}`,
      );
    return known;
  }
  if (kind === "single" && labels.length < 2) {
    if (config.labels) throw new UserError(`--labels ${config.labels.join()}: one class; expected at least two`);
    throw new UserError(
      `${config.data}: all training examples have the label ${show(labels[0])}; expected at least two classes, or --labels that names others`,
    );
  }
  return { kind, labels };
}

/** Returns what is settled now: kind, names, and the classes' weights as numbers. */
function labelSettings(
  { classWeights }: Pick<TrainConfig, "classWeights">,
  { kind, labels }: Pick<Classifier, "kind" | "labels">,
  { counts }: FoundLabels,
): Pick<TrainConfig, "labels" | "labelKind" | "classWeights"> {
  const names = labels.length === 0 ? {} : { labels: [...labels] };
  if (classWeights?.length !== 1 || classWeights[0] !== BALANCED) return { ...names, labelKind: kind };
  const total = [...counts.values()].reduce((sum, count) => sum + count, 0);
  // As scikit-learn's: so that the classes' weights times their texts are equal, and their sum is that of the texts.
  const balanced = [...counts].map(([label, count]) => `${label}=${total / (counts.size * count)}`);
  return { ...names, labelKind: kind, classWeights: balanced };
}
