import { z } from "zod";
import { trainConfigSchema } from "../../train/config.ts";
import { ADAPTER_KEYS } from "../../models/adapters/index.ts";
import { optimizerShape } from "../../optimizers/index.ts";
import { ENCODINGS } from "../../base/codes.ts";

const count = z.int().min(1);

type Mask<Shape> = { readonly [Key in keyof Shape]: true };

/** The keys of a training configuration that are the same at all nodes: the coordinator says them. Files, devices and memory are each node's own. */
export const SHARED_KEYS = {
  ...ADAPTER_KEYS,
  method: true,
  targets: true,
  modulesToSave: true,
  lastLayers: true,
  sequenceLength: true,
  truncate: true,
  batchSize: true,
  gradientAccumulation: true,
  packing: true,
  ...(Object.fromEntries(Object.keys(optimizerShape).map((key) => [key, true])) as Mask<typeof optimizerShape>),
  schedule: true,
  warmup: true,
  clip: true,
  seed: true,
} as const;

export const AGGREGATES = ["average", "products"] as const;
export const WEIGHTINGS = ["examples", "equal"] as const;

/** Settings of the rounds. */
export const ROUND_OPTIONS = {
  rounds: count.max(100_000).default(10).describe("rounds, in each of which every node trains and updates are averaged once"),
  localSteps: count.default(20).describe("optimizer steps of a node in a round"),
  nodes: count.default(2).describe("updates that close a round; more nodes may take part"),
  least: count.optional().describe("updates that are enough when a round's time is over (as many as --nodes)"),
  roundMinutes: z
    .number()
    .positive()
    .default(60)
    .describe("a round's time: nodes that are not done by then are away for this round"),
  weighting: z
    .enum(WEIGHTINGS)
    .default("examples")
    .describe("how much a node's update counts: as many as its training examples, or all the same"),
  aggregate: z
    .enum(AGGREGATES)
    .optional()
    .describe(
      "average: the mean of the parameters, which is exact with --freeze-a; products: the mean of B A, of which the best of the adapters' rank is kept (average with --freeze-a and ia3, else products)",
    ),
  encoding: z.enum(ENCODINGS).default("int8").describe("how updates travel: int8 or bf16 with error feedback, or f32"),
  outerLearningRate: z.number().positive().default(1).describe("factor of the mean update (DiLoCo: 0.7)"),
  outerMomentum: z.number().min(0).max(0.999).default(0).describe("Nesterov's momentum between rounds (DiLoCo: 0.9)"),
  privacyClip: z
    .number()
    .positive()
    .optional()
    .describe(
      "DP-SGD: the largest norm of an example's gradient; an example counts by itself, and each step draws its examples by chance",
    ),
  privacyNoise: z.number().min(0).optional().describe("DP-SGD: deviation of the noise over --privacy-clip"),
  privacyDelta: z.number().positive().max(0.1).default(1e-5).describe("DP-SGD: the delta for which epsilon is told"),
} as const;

const privacySchema = z.strictObject({ clip: z.number().positive(), noise: z.number().min(0), delta: z.number().positive() });

/** DP-SGD at each node. */
export type PrivacySettings = z.output<typeof privacySchema>;

/** All that nodes are told of a federation before they begin; what a node reads of the network is held against it. */
export const federationSchema = z.strictObject({
  run: z.string().regex(/^[0-9a-f]{16}$/),
  /** Keys of a training configuration. */
  training: trainConfigSchema.pick(SHARED_KEYS),
  rounds: count,
  localSteps: count,
  encoding: z.enum(ENCODINGS),
  privacy: privacySchema.nullable(),
  /** The base model by its name, for messages; its name on the hub, null where it is a folder of the coordinator; the SHA-256 of what decides its numbers. */
  model: z.strictObject({
    name: z.string(),
    hub: z
      .string()
      .regex(/^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/)
      .nullable(),
    config: z.string(),
    weights: z.string(),
    tokenizer: z.string(),
  }),
  /** SHA-256 of the names and shapes of what is learned, and of its first values. */
  layout: z.string(),
  initial: z.string(),
});

export type Federation = z.output<typeof federationSchema>;

/** A node's name: a part of file names. */
export const nodeName = z
  .string()
  .regex(/^[A-Za-z0-9_-]{1,64}$/, { error: "a name has at most 64 letters, digits, hyphens and underscores" });
