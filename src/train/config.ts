import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { SPECIAL_TEXT } from "../data/tokens/rendering.ts";
import { DEVICES, MATMUL_CHOICES } from "../device.ts";
import type { Quantised } from "../graph/types.ts";
import type { FloatType } from "../base/dtype.ts";
import { flagName } from "../base/names.ts";
import type { ModelConfig } from "../models/config.ts";
import { LINEAR_MODULES, modulesOf, TABLE_MODULES } from "../models/families/index.ts";
import { DEFAULT_OBJECTIVE, OBJECTIVE_FLAGS, OBJECTIVE_KEYS, OBJECTIVE_NAMES, OBJECTIVE_SUMMARY } from "../objectives/index.ts";
import { LOSS } from "../objectives/objective.ts";
import { NODE_FLAGS } from "./node-flags.ts";
import { ALL_LINEAR, resolveTargets } from "../hf/peft/peft.ts";
import { optimizerShape } from "../optimizers/index.ts";
import {
  ADAPTER_FLAGS,
  ADAPTER_KEYS,
  ADAPTER_METHODS,
  ADAPTER_SUMMARIES,
  type AdapterFlag,
  adapterKind,
  defaultTargets,
  methodsWith,
} from "../models/adapters/index.ts";

/**
 * The training configuration. This schema is the one place that defines each key: its flag (`learningRate` is
 * `--learning-rate`), default, check and help text all come from here.
 */
const positive = z.number().positive();
const count = z.number().int().min(1);

export const STRATEGIES = [
  "per-segment",
  "off",
  "every",
  "first",
  "ratio",
  "uniform",
  "sqrt",
  "revolve",
  "optimal",
  "budget",
] as const;
export const DTYPES = ["f32", "bf16", "f16"] as const satisfies FloatType[];
const QUANTIZE_CHOICES = ["off", "q8", "nf4"] as const satisfies ("off" | Quantised)[];
const STREAM_MODES = ["auto", "off", "all"] as const;
const SCHEDULES = ["cosine", "linear", "constant"] as const;

/** A boolean that is on; `off` is what switching it off does, for the help of its --no- flag. */
function onByDefault(description: string, off: string) {
  return z.boolean().default(true).meta({ description, off });
}

export const trainConfigSchema = z.strictObject({
  model: z.string().min(1).describe("base model: a folder in Hugging Face layout, a GGUF file, or org/name on the hub"),
  adapter: z.string().min(1).optional().describe("PEFT adapter to train further: its matrices, with its rank, alpha and modules"),
  data: z
    .string()
    .min(1)
    .describe(
      "training examples: a file (JSONL, a JSON array, CSV, Parquet), a folder, a pattern (more/*.csv), or several with weights: a.jsonl=2,b.csv=0.5",
    ),
  columns: z
    .array(z.string().min(1))
    .optional()
    .describe("columns of other names: prompt=question,completion=reply; ignore=notes leaves one out"),
  roles: z.array(z.string().min(1)).optional().describe("roles of other names in conversations: customer=user,agent=assistant"),
  valid: z
    .union([z.string().min(1), z.number().min(0)])
    .transform(String)
    .optional()
    .describe(
      "held-out examples: files like those of --data, or 5% or 200 of the training examples (default: valid.jsonl beside them, if there)",
    ),
  objective: z.enum(OBJECTIVE_NAMES).default(DEFAULT_OBJECTIVE).describe(`what is learned (${OBJECTIVE_SUMMARY})`),
  ...OBJECTIVE_FLAGS,
  output: z.string().min(1).default("runs/latest").describe("run folder; must be new or empty unless --overwrite is given"),
  overwrite: z.boolean().default(false).describe("replace the contents of the run folder"),

  method: z
    .enum([...ADAPTER_METHODS, "full"], {
      error: ({ input }) => (input === "qlora" ? "qlora is lora with --quantize nf4" : undefined),
    })
    .default("lora")
    .describe(
      `what is trained (${ADAPTER_SUMMARIES.join("; ")}; full: all weights, and unasked those of a text encoder of fewer than 200 million parameters)`,
    ),
  ...ADAPTER_FLAGS,
  targets: z
    .array(z.enum([ALL_LINEAR, ...LINEAR_MODULES, ...TABLE_MODULES]))
    .min(1)
    .optional()
    .describe(
      `layers that get an adapter, by the model's own names: linear ones of the blocks, head and embedding (${defaultTargets(ALL_LINEAR)})`,
    ),
  modulesToSave: z
    .array(z.string().min(1))
    .min(1)
    .optional()
    .describe("modules that are trained whole beside the adapters, by the ends of their names: lm_head,embed_tokens,norm"),
  lastLayers: count
    .optional()
    .describe("train only the last N decoder blocks: their adapters, or their weights and what follows them"),

  sequenceLength: count
    .optional()
    .describe("tokens in a row; longer examples are an error unless --truncate is given (512, or the model's context)"),
  truncate: z.boolean().default(false).describe("cut examples that are longer than the sequence length"),
  batchSize: count.default(1).describe("rows in a micro-batch"),
  gradientAccumulation: count.default(1).describe("micro-batches in an optimizer step"),
  packing: onByDefault(
    "put several examples into a row; attention never crosses them",
    "one example in a row, filled up with padding",
  ),

  epochs: positive.default(1).describe("passes over the training data"),
  steps: count.optional().describe("optimizer steps; overrides --epochs"),
  ...optimizerShape,
  schedule: z.enum(SCHEDULES).default("cosine").describe("learning-rate schedule after the warm-up"),
  warmup: z.number().min(0).default(0.03).describe("warm-up: steps, or a share of all steps if below 1"),
  clip: z.number().min(0).default(1).describe("largest global gradient norm; 0 switches clipping off"),
  seed: z.number().int().min(0).max(2147483647).default(42).describe("seeds shuffling, initialisation and dropout"),
  date: z.iso
    .date()
    .optional()
    .describe("what chat templates that write the date take for today, 2026-11-24 (today; a resumed run keeps its own)"),

  chatTemplate: z.string().min(1).optional().describe("file of a Jinja chat template that is used in the place of the model's"),
  templateArgs: z
    .union([z.string().min(1), z.record(z.string(), z.json())])
    .optional()
    .describe("variables of the chat template: enable_thinking=false, several with commas, or a JSON object"),
  specialText: z
    .enum(SPECIAL_TEXT)
    .default("token")
    .describe("what text in a message that is a special token's becomes: that token, or with escape text like any other"),

  gradientCheckpointing: onByDefault(
    "keep few activations and replay the forward in the backward pass",
    "keep all activations, and replay nothing",
  ),
  strategy: z
    .enum(STRATEGIES)
    .optional()
    .describe(
      "which activations are kept (that of a flag below; else the fastest within half of what off keeps, or more where that is faster, and half of what is free; per-segment: little)",
    ),
  every: count.optional().describe("strategy every: replay each Nth segment"),
  first: z.number().int().min(0).optional().describe("strategy first: replay the first N segments that are trained"),
  ratio: z.number().min(0).max(1).optional().describe("strategy ratio: replay this share of the segments, the first ones"),
  groupSize: count.optional().describe("strategy uniform: replay groups of N segments"),
  groups: count.optional().describe("strategy sqrt: number of groups (the square root of the number of segments)"),
  slots: count.optional().describe("strategy revolve: inputs of segments that are kept at a time"),
  activationMemory: z
    .string()
    .optional()
    .describe("strategy optimal: limit of stash and workspace: 200MiB, or 25% of what off needs"),
  memory: z
    .string()
    .optional()
    .describe("strategy budget: limit of the whole process (cuda: on the card): 1.5GiB, 50% of what is free, or auto"),
  keepOps: z.array(z.string().min(1)).optional().describe("layers or operators of a block whose results are always kept"),
  recomputeOps: z.array(z.string().min(1)).optional().describe("layers or operators of a block that always run again"),
  offload: z
    .string()
    .min(1)
    .default("off")
    .describe(
      "what is kept may leave memory: off, auto (a file beside the run folder; host memory with cuda and webgpu), or a folder for the file",
    ),
  stream: z
    .enum(STREAM_MODES)
    .default("auto")
    .describe(
      "frozen weights: auto, in memory if they fit there, else read from their file as they are needed; off; all, as many as can be",
    ),
  verifyReplay: z.boolean().default(false).describe("check that what is computed again is what it was, value by value; slow"),
  device: z
    .enum(DEVICES)
    .default("auto")
    .describe(
      "what computes; auto: cuda where all that it needs is installed, webgpu where its adapter was measured to be faster, else wasm",
    ),
  dtype: z
    .enum(DTYPES)
    .optional()
    .describe(
      "frozen weights, and on ort-cpu, cuda and webgpu (f16) all that is computed but sums and what is trained (as stored; f32)",
    ),
  quantize: z
    .enum(QUANTIZE_CHOICES)
    .default("off")
    .describe("frozen linear layers in memory: 8-bit integers, or QLoRA's 4-bit NormalFloat"),
  quantizeEmbedding: z.boolean().default(false).describe("embedding and head in memory as 8-bit integers"),
  weightCache: onByDefault(
    "convert streamed weights once, into a file that runs share",
    "convert streamed weights each time that they are read, and write no file",
  ),
  threads: count.max(64).optional().describe("CPU threads (default: all cores)"),
  matmul: z
    .enum(MATMUL_CHOICES)
    .default("auto")
    .describe(
      "matrix products by WebAssembly kernels, by ONNX Runtime's native ones, in bf16 with sums in f32, or in int8 with the weights of --quantize q8; auto: native where the library loads",
    ),

  ...NODE_FLAGS,

  evalEvery: z
    .number()
    .int()
    .min(0)
    .default(0)
    .describe("evaluate on the held-out examples every N steps (0: at the start and the end)"),
  saveEvery: z
    .number()
    .int()
    .min(0)
    .default(0)
    .describe("save a checkpoint every N steps (0: by time, on Ctrl-C and at the end)"),
  saveMinutes: z
    .number()
    .min(0)
    .default(10)
    .describe("save a checkpoint when so many minutes have passed (both 0: on Ctrl-C alone)"),
  keep: count.default(2).describe("newest checkpoints that are kept; the best one is kept besides"),
  resume: z.boolean().default(false).describe("go on from the newest checkpoint in the run folder, if there is one"),
  patience: z.number().int().min(0).default(0).describe("stop after N evaluations without a better held-out loss (0: never)"),
  bestMetric: z
    .string()
    .min(1)
    .default(LOSS.name)
    .describe("what of an evaluation makes weights the best: the loss, or a metric of the objective, such as accuracy"),
  evalLimit: count.default(100_000).describe("held-out tokens used by an evaluation, at most"),
  loadBest: z.boolean().default(false).describe("export the weights with the least held-out loss instead of the last ones"),
  tensorboard: z.boolean().default(false).describe("write TensorBoard event files into the run folder too"),
  json: z.boolean().default(false).describe("print what happens as JSON lines on standard output"),
  open: z.boolean().default(false).describe("open the run's report.html in the browser at the end"),
  sample: onByDefault(
    "answer one held-out prompt before and after training",
    "do not answer a held-out prompt before and after training",
  ),
  dryRun: z.boolean().default(false).describe("say what the run would be, take and last, train nothing and write nothing"),
});

/** Flags of adapters without a line of help of their own. */
const MODULE_KEYS = (Object.keys(ADAPTER_FLAGS) as AdapterFlag[]).filter(
  (key) => !["rank", "alpha", "rslora", "dropout", "freezeA", "bias"].includes(key),
);

/** Keys that share a line of help. */
export const HELP_GROUPS = [
  { keys: OBJECTIVE_KEYS, description: "settings of single objectives; docs/configuration.md says what they do" },
  {
    keys: ["batchSize", "gradientAccumulation"],
    description: "rows in a micro-batch (1), micro-batches in an optimizer step (1)",
  },
  {
    keys: ["output", "overwrite"],
    description: "run folder (runs/latest), new or empty unless its contents are to be replaced",
  },
  {
    keys: ["model", "adapter"],
    description: "base model: a folder, a GGUF file or org/name on the hub (required); an adapter of it to train further",
  },
  {
    keys: ["data", "valid", "columns", "roles"],
    description:
      "examples and held-out ones (or 5% of the former): files, folders, patterns; columns and roles of other names: prompt=question,ignore=notes; customer=user",
  },
  {
    keys: ["rank", "alpha", "rslora", "dropout", "freezeA"],
    description:
      "rank r (8) and alpha (2 r), scaled by alpha / r or alpha / sqrt(r); dropout in front of the adapters (0); A is left as it was drawn",
  },
  { keys: ["sequenceLength", "truncate"], description: "tokens in a row (512, or the model's context); cut longer examples" },
  { keys: ["epochs", "steps"], description: "passes over the training data (1), or optimizer steps" },
  {
    keys: ["targets", "lastLayers"],
    description: `layers that get adapters (${defaultTargets(ALL_LINEAR)}); only in the last N blocks`,
  },
  {
    keys: MODULE_KEYS,
    description: "what some modules have of their own (q_proj=16,layers.0.mlp.down_proj=4); see docs/methods.md",
  },
  { keys: ["bias", "modulesToSave"], description: "biases and modules that are trained whole beside the adapters (none)" },
  {
    keys: ["beta1", "beta2", "epsilon", "momentum", "nesterov", "adjustLr"],
    description: "hyperparameters that some optimizers have; docs/configuration.md says which, and their defaults",
  },
  {
    keys: ["every", "first", "ratio", "groupSize", "groups", "slots"],
    description: "what the strategies every, first, ratio, uniform, sqrt and revolve take",
  },
  {
    keys: ["chatTemplate", "templateArgs"],
    description: "a Jinja file in the place of the model's chat template; its variables, enable_thinking=false",
  },
  { keys: ["seed", "date"], description: "seeds shuffling, initialisation and dropout (42); what chat templates take for today" },
  {
    keys: ["patience", "loadBest", "bestMetric"],
    description: "stop after N evaluations without a better one; export the best weights; the metric that says so (loss)",
  },
  {
    keys: ["tensorboard", "json", "open"],
    description: "write TensorBoard files too; events as JSON lines; open report.html at the end",
  },
  {
    keys: ["offload", "stream", "weightCache"],
    description:
      "what is kept, and frozen weights, may lie in files: off, auto, a folder; auto, off, all; no file of converted weights",
  },
  {
    keys: ["schedule", "warmup"],
    description:
      "learning-rate schedule after the warm-up (cosine), which takes so many steps, or below 1 such a share of all (0.03)",
  },
  {
    keys: ["evalEvery", "evalLimit"],
    description: "evaluate on the held-out examples every N steps (0: at the start and the end); their tokens, at most (100000)",
  },
  { keys: ["saveEvery", "saveMinutes"], description: "save a checkpoint every N steps, or minutes (0 and 10)" },
  {
    keys: ["dtype", "quantize", "quantizeEmbedding"],
    description:
      "frozen weights (as stored), the linear ones as 8-bit integers or QLoRA's 4-bit NormalFloat; on ort-cpu and cuda also what is computed",
  },
  {
    keys: ["threads", "matmul"],
    description:
      "CPU threads (all), and what multiplies matrices on wasm: WebAssembly, ONNX Runtime, or machine code in bf16 or int8 (auto)",
  },
  {
    keys: ["activationMemory", "memory"],
    description:
      "the fastest schedule within a limit for activations (200MiB, 25%), or for the process (1.5GiB, 50% of what is free, auto)",
  },
  {
    keys: ["nodes", "gradientEncoding"],
    description:
      "processes among which the micro-batches of a step are divided; their gradients travel in f32, bf16 or int8 (f32)",
  },
  { keys: ["keepOps", "recomputeOps"], description: "layers or operators of a block that are always kept, or always run again" },
] as const satisfies readonly {
  readonly keys: readonly (keyof typeof trainConfigSchema.shape)[];
  readonly description: string;
}[];

/** The keys that decide how chats become text. */
export const CHAT_KEYS = { chatTemplate: true, templateArgs: true, specialText: true } as const;

/** The keys that decide how frozen weights lie in memory (`WeightStorage`) and on disk. */
export const STORAGE_KEYS = { dtype: true, quantize: true, quantizeEmbedding: true, weightCache: true } as const;

/** The keys that decide what a step keeps and what it computes again. */
export const CHECKPOINTING_KEYS = {
  gradientCheckpointing: true,
  strategy: true,
  every: true,
  first: true,
  ratio: true,
  groupSize: true,
  groups: true,
  slots: true,
  activationMemory: true,
  memory: true,
  keepOps: true,
  recomputeOps: true,
  offload: true,
  stream: true,
  verifyReplay: true,
} as const;

export type TrainConfig = z.output<typeof trainConfigSchema>;
export type TrainConfigInput = z.input<typeof trainConfigSchema>;
export type TrainConfigKey = keyof TrainConfig;

/** Types a configuration file: `export default defineConfig({ model: "...", data: "..." })`. */
export function defineConfig(config: TrainConfigInput): TrainConfigInput {
  return config;
}

/** The keys of a configuration that are about adapters: those of all kinds, and those of some. */
const KEYS_OF_ADAPTERS = [...(Object.keys(ADAPTER_KEYS) as AdapterFlag[]), "targets", "modulesToSave"] as const;

type KeyOfAdapters = (typeof KEYS_OF_ADAPTERS)[number];

/** Describes what chooses a method, and what may be said of its adapters. */
type MethodConfig = { readonly [Key in "method" | KeyOfAdapters]?: unknown };

/** Returns the keys of a configuration, read or not, that mean nothing with its method. */
export function needlessKeys(config: MethodConfig): KeyOfAdapters[] {
  const { data: method } = trainConfigSchema.shape.method.safeParse(config.method);
  if (method === undefined) return [];
  const isMeant = (key: KeyOfAdapters) => method !== "full" && (!(key in ADAPTER_KEYS) || key in adapterKind(method).flags);
  return KEYS_OF_ADAPTERS.filter((key) => config[key] !== undefined && !isMeant(key));
}

/** @throws {UserError} settings of adapters that the method does not have */
export function checkMethod(config: MethodConfig & Pick<TrainConfig, "method">): void {
  const { method } = config;
  const [key] = needlessKeys(config);
  if (key === undefined) return;
  if (method === "full") throw new UserError(`${flagName(key)} is for adapters; got --method full, which trains all weights`);
  const own = Object.keys(adapterKind(method).flags).map(flagName).join(", ");
  const has = own === "" ? "no settings of its own" : own;
  throw new UserError(
    `${flagName(key)} is no setting of --method ${method}, which has ${has}; ${flagName(key)} belongs to --method ${methodsWith(key).join(", ")}`,
  );
}

/** The layers that get an adapter: those that are named, or the kind's usual ones. @throws {UserError} names that the model does not have */
export function targetsOf(
  { method, targets }: Pick<TrainConfig, "method" | "targets">,
  model: Pick<ModelConfig, "family">,
): string[] {
  const usual = method === "full" ? undefined : adapterKind(method).targets;
  return resolveTargets(targets ?? usual?.of(modulesOf(model)) ?? [ALL_LINEAR], model);
}

const SEQUENCE_LENGTH = 512;

/** The sequence length that was asked for, else 512 or the model's context, whichever is shorter. */
export function sequenceLengthOf(config: Pick<TrainConfig, "sequenceLength">, contextLimit: number): number {
  return config.sequenceLength ?? Math.min(SEQUENCE_LENGTH, contextLimit);
}

/** @throws {UserError} quantised weights although all are to be trained, or products of 8-bit codes without such weights */
export function checkQuantize(
  config: Pick<TrainConfig, "method" | "lastLayers" | "quantize" | "quantizeEmbedding" | "matmul">,
): void {
  const { method, lastLayers, quantize, quantizeEmbedding, matmul } = config;
  if (matmul === "int8" && quantize !== "q8")
    throw new UserError(
      `--matmul int8 multiplies weights that are 8-bit integers and needs --quantize q8; got ${quantize === "off" ? "none" : `--quantize ${quantize}`}`,
    );
  const asked = quantize === "off" ? "--quantize-embedding" : `--quantize ${quantize}`;
  if (method === "full" && lastLayers === undefined && (quantize !== "off" || quantizeEmbedding))
    throw new UserError(`${asked} is for frozen weights and needs --method lora; got --method full, which trains them all`);
}
