import { objectiveFingerprint } from "../objectives/index.ts";
import { LOSS } from "../objectives/objective.ts";
import { ADAPTER_KEYS, type AdapterFlag } from "../models/adapters/index.ts";
import type { ModelConfig } from "../models/config.ts";
import { chooseOptimizer } from "../optimizers/index.ts";
import { bf16Kernel } from "../wasm/machine-code/executable.ts";
import { targetsOf, type TrainConfig, type TrainConfigKey } from "./config.ts";

/** Settings that a run's numbers depend on: a checkpoint can only be resumed with the same. */
const NUMERIC_KEYS = [
  "method",
  "rank",
  "alpha",
  "dropout",
  "targets",
  "lastLayers",
  "rslora",
  "sequenceLength",
  "batchSize",
  "gradientAccumulation",
  "packing",
  "epochs",
  "steps",
  "schedule",
  "warmup",
  "clip",
  "seed",
  "dtype",
  "quantize",
  "quantizeEmbedding",
] as const satisfies TrainConfigKey[];

/** Those settings of adapters as they are written where they are not given, whatever the method: as in checkpoints of old. */
const NOT_GIVEN: { readonly [Key in TrainConfigKey]?: TrainConfig[Key] } = { rank: 8, dropout: 0, rslora: false };

/** Settings of the same sort that are named where they are given, so that older checkpoints, which know nothing of them, stay what they are. */
const LATER_KEYS = [
  ...(Object.keys(ADAPTER_KEYS) as AdapterFlag[]).filter((key) => !(NUMERIC_KEYS as readonly TrainConfigKey[]).includes(key)),
  "modulesToSave",
] as const;

/** The numeric keys that only say how long to train: a run may be resumed with others, and then goes on to its new end. */
const LENGTH_KEYS: readonly TrainConfigKey[] = ["epochs", "steps"];

/** The parts of a fingerprint about the base model, each with a SHA-256 behind it. */
const IDENTITY = {
  config: "the base model's config.json, SHA-256",
  weights: "the base model's weights, SHA-256",
  tokenizer: "tokenizer and chat template, SHA-256",
} as const;

const IDENTITY_KEYS = Object.keys(IDENTITY) as (keyof typeof IDENTITY)[];

/** A text that two runs share when the one can go on from a checkpoint of the other as if it were the same run. */
export function fingerprint(
  config: TrainConfig,
  inputs: {
    readonly model: Pick<ModelConfig, "family" | "layers" | "hiddenSize">;
    /** Null where no token depends on it. */
    readonly date: string | null;
    readonly start: { readonly content: string } | null;
    /** SHA-256, in hexadecimal, of what decides the base model's numbers. */
    readonly identity: { readonly config: string; readonly weights: string; readonly tokenizer: string };
    readonly train: { readonly count: number; readonly tokens: number; readonly content: string };
  },
): string {
  const { model, train, date, start, identity } = inputs;
  const resolved = { ...config, targets: targetsOf(config, model) };
  const optimizer = chooseOptimizer(config);
  const settings = [
    ...NUMERIC_KEYS.map((key) => `${key} ${String(resolved[key] ?? NOT_GIVEN[key] ?? "default")}`),
    `optimizer ${optimizer.name}`,
    `learningRate ${optimizer.learningRate}`,
    ...Object.entries(optimizer.settings).map(([key, value]) => `${key} ${value}`),
  ];
  const later = LATER_KEYS.filter((key) => config[key] !== undefined && config[key] !== "none");
  return [
    ...settings,
    ...(config.matmul === "bf16" || config.matmul === "int8" ? [`matmul ${config.matmul} ${bf16Kernel()}`] : []),
    ...(config.nodes === undefined ? [] : ["gradients of micro-batches summed one by one"]),
    ...(config.gradientEncoding === "f32" ? [] : [`gradientEncoding ${config.gradientEncoding}`]),
    ...objectiveFingerprint(config),
    ...(config.bestMetric === LOSS.name ? [] : [`bestMetric ${config.bestMetric}`]),
    ...later.map((key) => `${key} ${JSON.stringify(config[key])}`),
    ...(date === null ? [] : [`date ${date}`]),
    ...(start === null ? [] : [`adapter at the start, SHA-256 ${start.content.slice(0, 16)}`]),
    `model ${model.family} ${model.layers}x${model.hiddenSize}`,
    ...IDENTITY_KEYS.map((key) => `${IDENTITY[key]} ${identity[key].slice(0, 16)}`),
    `data of ${train.count} examples, ${train.tokens} tokens, SHA-256 ${train.content.slice(0, 16)}`,
  ].join("; ");
}

/** Settings that differ between two fingerprints, as each of them states them. */
export interface Difference {
  readonly had: string;
  readonly has: string;
}

/**
 * Compares the fingerprint that a checkpoint was written with to the present one. `other`: the checkpoint cannot be resumed;
 * `length`: it can, to another end than the run had that wrote it. Null where there is no difference.
 */
export function compareFingerprints(
  written: string,
  now: string,
): { readonly other: Difference | null; readonly length: Difference | null } {
  const [before, complete] = [written, now].map(settingsOf) as [string[], string[]];
  // Runs of earlier versions did not write down which base model they had.
  const isIdentity = (setting: string) => IDENTITY_KEYS.some((key) => setting.startsWith(IDENTITY[key]));
  const after = before.some(isIdentity) ? complete : complete.filter((setting) => !isIdentity(setting));
  const difference = (length: boolean): Difference | null => {
    const only = (these: readonly string[], those: readonly string[]) =>
      these.filter((setting) => !those.includes(setting) && isLength(setting) === length).join("; ");
    const [had, has] = [only(before, after), only(after, before)];
    return had === "" && has === "" ? null : { had, has };
  };
  return { other: difference(false), length: difference(true) };
}

/** The settings of a fingerprint. When there was no other optimizer than AdamW, none was named. */
function settingsOf(fingerprint: string): string[] {
  const settings = fingerprint.split("; ");
  return settings.some((setting) => setting.startsWith("optimizer ")) ? settings : ["optimizer adamw", ...settings];
}

function isLength(setting: string): boolean {
  return LENGTH_KEYS.some((key) => setting.startsWith(`${key} `));
}
