import { existsSync } from "node:fs";
import { isAbsolute, join } from "node:path";
import { show } from "../../../base/json.ts";
import { ADAPTER_TITLES } from "../../../models/adapters/index.ts";
import { METRICS } from "../../../objectives/index.ts";
import type { OptimizerName } from "../../../optimizers/index.ts";
import { hubDataset } from "../../../data/examples/wrong-files.ts";
import {
  type Counterpart,
  each,
  isOff,
  isOneOf,
  type Meaning,
  missing,
  needless,
  NOTHING,
  problem,
  switches,
  type Table,
  to,
} from "./counterpart.ts";

/** Sentences that several systems' tables say. */
export const WHY = {
  oneDevice: "a run has one device",
  twice: "scales are not quantised again",
  attention: "attention and loss never form their large matrices",
  steps: "each step is shown and kept in metrics.jsonl",
  tokenized: "examples are tokenized once and kept on disk",
  answers: "only answers are learned",
  endTokens: "the assistant's turns are learned with the token that ends them",
  template: "the model's own chat template is used, or a file that chat-template names",
  format: "the format of data is told from the keys of a line",
  services: "metrics.jsonl, --json and --tensorboard are what there is",
  hub: "upload the run folder with the hub's own tools",
  lora: `adapters are ${ADAPTER_TITLES}, with modules that are trained whole`,
  reentrant: "there is no autograd engine to re-enter",
  noise: "noise on embeddings (NEFTune) is not added here",
  compiled: "kernels are compiled once, before any run",
  code: "no code of a model folder is run",
  names: "it only names the run for a service",
  byTime: "evaluation is at the start and the end, and by --eval-every N; checkpoints are saved by time, and by --save-every N",
} as const;

/** A path or a list of paths of data, from `folder` on; names of the hub are told how their data are got. */
export function dataOf(value: unknown, folder: string): { readonly paths: readonly string[] } | { readonly problem: string } {
  const paths = Array.isArray(value) ? value : [value];
  const other = paths.find((path) => typeof path !== "string");
  if (other !== undefined) return { problem: `expected a path of data, got ${show(other)}` };
  for (const path of paths as string[]) {
    const hub = existsSync(isAbsolute(path) ? path : join(folder, path)) ? null : hubDataset(path);
    if (hub !== null) return { problem: `${path}: ${hub}; then name that file` };
  }
  return { paths: paths as string[] };
}

export function readData(value: unknown, folder: string): Meaning {
  const data = dataOf(value, folder);
  return "problem" in data ? data : { set: { data: data.paths.join() } };
}

/** A chat template: the path of a Jinja file. */
export const templateFile = to("chatTemplate", (value) => {
  if (isOff(value)) return NOTHING;
  return typeof value === "string" && /\.(?:jinja2?|j2|txt)$/.test(value)
    ? { set: { chatTemplate: value } }
    : problem(`expected the path of a .jinja file; write the template into one, got ${show(value)}`);
});

/** Variables of the chat template. */
export const templateArgs = to("templateArgs", (value) =>
  isOff(value) ? NOTHING : { set: { templateArgs: JSON.stringify(value) } },
);

/** A setting whose values have other names there; `usual` is the name that says nothing. */
const byName = <Name extends string>(
  key: "schedule" | "optimizer" | "dtype",
  names: Readonly<Record<string, Name>>,
  usual?: string,
): Counterpart =>
  to(key, (value) => {
    if (usual !== undefined && isOneOf(usual)(value)) return NOTHING;
    const name = typeof value === "string" && Object.hasOwn(names, value) ? names[value] : undefined;
    const known = [...(usual === undefined ? [] : [usual]), ...Object.keys(names)];
    return name ? { set: { [key]: name } } : problem(`${show(value)} is not one of ${known.join(", ")}`);
  });

/** A list of names, which may be written as one text with commas. */
const listed = (value: unknown): unknown => (typeof value === "string" ? value.split(",").map((name) => name.trim()) : value);

/** Learning-rate schedules by the names of Transformers. */
const SCHEDULES: Readonly<Record<string, "cosine" | "linear" | "constant">> = {
  cosine: "cosine",
  linear: "linear",
  constant: "constant",
  constant_with_warmup: "constant",
};

export const schedule = byName("schedule", SCHEDULES);

/** Optimizers by the names of Transformers, axolotl and MLX-LM. */
const OPTIMIZER_NAMES: Readonly<Record<string, OptimizerName>> = {
  ...Object.fromEntries(
    "adamw adamw_torch adamw_torch_fused adamw_hf adamw_apex_fused paged_adamw paged_adamw_32bit"
      .split(" ")
      .map((name) => [name, "adamw"]),
  ),
  ...Object.fromEntries("adamw_8bit adamw_bnb_8bit paged_adamw_8bit adamw8bit".split(" ").map((name) => [name, "adamw8bit"])),
  ...Object.fromEntries("lion lion_32bit paged_lion_32bit".split(" ").map((name) => [name, "lion"])),
  muon: "muon",
  sgd: "sgd",
};

export const optimizer = byName("optimizer", OPTIMIZER_NAMES);

/** A number of steps; 0 and less say nothing. */
export const positiveOnly = (key: "steps" | "warmup" | "keep" | "saveEvery" | "evalEvery"): Counterpart =>
  to(key, (value) => (Number(value) > 0 ? { set: { [key]: value } } : NOTHING));

/** Evaluation and checkpoints every N steps; by the epoch they are noted, since they change no weight. */
export const everySteps = (key: "saveEvery" | "evalEvery"): Counterpart =>
  to(key, (value) => {
    const number = Number(value);
    if (!(number > 0)) return NOTHING;
    return Number.isInteger(number) ? { set: { [key]: number } } : { set: {}, note: WHY.byTime };
  });

/** A part of the data that is held out; 0 says nothing. */
export const heldOutShare = to("valid", (value) => (Number(value) > 0 ? { set: { valid: String(value) } } : NOTHING));

export const strategyOf = (flag: "--eval-every" | "--save-every"): Counterpart => ({
  flag,
  why: null,
  read: (value) => (isOneOf("no", "steps")(value) ? NOTHING : { set: {}, note: WHY.byTime }),
});

/** Evaluations and checkpoints in an epoch. */
export const perEpoch = (flag: "--eval-every" | "--save-every"): Counterpart => ({
  flag,
  why: null,
  read: (value) => (isOff(value) || value === 0 ? NOTHING : { set: {}, note: WHY.byTime }),
});

const LINEARS = /^[a-z0-9_]+$/;

export const targets = to("targets", (value) => {
  const names = listed(value);
  if (!Array.isArray(names) || names.length === 0)
    return isOff(value) ? NOTHING : problem(`expected a list of modules, got ${show(value)}`);
  const pattern = names.find((name) => name !== "all-linear" && !(typeof name === "string" && LINEARS.test(name)));
  return pattern === undefined
    ? { set: { targets: names } }
    : problem(`${show(pattern)} is a pattern; write a list of the modules' names, or all-linear`);
});

/** bf16 and fp16: true computes in it. */
export const halves: Table = {
  bf16: {
    ...switches("dtype", "bf16"),
    read: (value) => (isOff(value) || value === "auto" ? NOTHING : { set: { dtype: "bf16" } }),
  },
  fp16: switches("dtype", "f16"),
};

const DTYPES: Readonly<Record<string, "f32" | "bf16" | "f16">> = {
  float32: "f32",
  bfloat16: "bf16",
  float16: "f16",
  fp32: "f32",
  bf16: "bf16",
  fp16: "f16",
};

export const dtype = byName("dtype", DTYPES, "auto");

export const reportTo: Counterpart = {
  flag: "--tensorboard",
  why: WHY.services,
  read(value) {
    const services = (Array.isArray(value) ? value : [value]).filter((name) => !isOneOf("none")(name));
    if (services.some((name) => name !== "tensorboard")) return problem(`${show(value)}: ${WHY.services}; remove the others`);
    return services.length > 0 ? { set: { tensorboard: true } } : NOTHING;
  },
};

/** Keys of quantised loading beside the number of bits. */
export const quantization: Table = {
  load_in_4bit: switches("quantize", "nf4"),
  load_in_8bit: switches("quantize", "q8"),
  bnb_4bit_quant_type: needless("4 bits are NF4", isOneOf("nf4")),
  ...each("bnb_4bit_compute_dtype bnb_4bit_quant_storage", needless("what is computed is f32, or --dtype")),
  ...each("use_bnb_nested_quant bnb_4bit_use_double_quant double_quantization", missing(WHY.twice)),
};

/** Keys of Transformers' Trainer that several systems pass on. */
export const TRAINER: Table = {
  gradient_accumulation_steps: to("gradientAccumulation"),
  learning_rate: to("learningRate"),
  lr_scheduler_type: schedule,
  lr_scheduler_kwargs: missing("schedules have no further settings"),
  // Of both, steps count.
  warmup_ratio: to("warmup"),
  warmup_steps: positiveOnly("warmup"),
  weight_decay: to("weightDecay"),
  adam_beta1: to("beta1"),
  adam_beta2: to("beta2"),
  adam_epsilon: to("epsilon"),
  max_grad_norm: to("clip"),
  max_steps: positiveOnly("steps"),
  seed: to("seed"),
  data_seed: missing("one seed decides everything: --seed"),
  optim: optimizer,
  optim_args: missing("hyperparameters of optimizers are settings of their own, such as momentum"),
  output_dir: to("output"),
  overwrite_output_dir: to("overwrite"),
  gradient_checkpointing: to("gradientCheckpointing"),
  ...each("gradient_checkpointing_kwargs use_reentrant use_reentrant_gc", needless(WHY.reentrant)),
  neftune_noise_alpha: missing(WHY.noise, (value) => isOff(value) || value === 0),
  label_smoothing_factor: missing("labels are not smoothed", (value) => isOff(value) || value === 0),
  group_by_length: switches("packing", false),
  eval_strategy: strategyOf("--eval-every"),
  evaluation_strategy: strategyOf("--eval-every"),
  eval_steps: everySteps("evalEvery"),
  save_strategy: strategyOf("--save-every"),
  save_steps: everySteps("saveEvery"),
  save_total_limit: positiveOnly("keep"),
  load_best_model_at_end: to("loadBest"),
  metric_for_best_model: to("bestMetric", (value) => {
    const name = typeof value === "string" ? value.replace(/^eval_/, "") : "";
    return METRICS.has(name)
      ? { set: { bestMetric: name } }
      : problem(`${show(value)} is not one of ${[...METRICS.keys()].join(", ")}`);
  }),
  greater_is_better: needless("each metric has its direction"),
  early_stopping_patience: to("patience"),
  resume_from_checkpoint: to("resume", (value) =>
    typeof value === "string" && value !== "true"
      ? problem("a run is gone on with by its folder: remat train RUN --resume")
      : { set: { resume: !isOff(value) } },
  ),
  report_to: reportTo,
  ...each(
    "logging_steps logging_strategy logging_first_step logging_dir log_level disable_tqdm log_on_each_node",
    needless(WHY.steps),
  ),
  ...each("run_name project", needless(WHY.names)),
  ...each("push_to_hub hub_model_id hub_strategy hub_token hub_private_repo", missing(WHY.hub)),
  ...each("deepspeed fsdp fsdp_config accelerator_config parallelism_config", missing(WHY.oneDevice)),
  ...each("ddp_timeout ddp_backend ddp_find_unused_parameters local_rank", needless(WHY.oneDevice)),
  ...each("attn_implementation use_liger_kernel liger_kernel_config", needless(WHY.attention)),
  ...each("torch_compile torch_compile_backend torch_compile_mode", needless(WHY.compiled)),
  ...each(
    "dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor dataset_num_proc",
    needless(WHY.tokenized),
  ),
  ...each(
    "save_safetensors save_only_model",
    needless("adapters and models are safetensors files, and checkpoints hold all that a run needs"),
  ),
  ...each(
    "tf32 use_cache remove_unused_columns per_device_eval_batch_size eval_accumulation_steps eval_on_start eval_packing do_train " +
      "do_eval include_num_input_tokens_seen skip_memory_metrics prediction_loss_only label_names full_determinism average_tokens_across_devices",
    needless("it decides nothing here"),
  ),
  trust_remote_code: needless(WHY.code),
  device_map: needless("--device chooses what computes", isOneOf("auto")),
  auto_find_batch_size: {
    flag: "--memory LIMIT",
    why: null,
    read: (value) => (isOff(value) ? NOTHING : problem("say a limit: memory: 8GiB, or auto")),
  },
  ...halves,
};

/** Modules that are trained whole beside adapters: a list, or names with commas. */
export const modulesToSave = to("modulesToSave", (value) => {
  return isOff(value) ? NOTHING : { set: { modulesToSave: listed(value) as string[] } };
});

/** Parameters of experts, as PEFT's `target_parameters`: a list, or names with commas. */
export const targetParameters = to("targetParameters", (value) => {
  return isOff(value) ? NOTHING : { set: { targetParameters: listed(value) as string[] } };
});

/** Ranks or alphas by module; an empty one says nothing. */
export const readPattern =
  (key: "rankPattern" | "alphaPattern") =>
  (value: unknown): Meaning =>
    isOff(value) ? NOTHING : { set: { [key]: value } };

/** DoRA as a switch beside a key that says what is trained. */
export const doraInstead = (key: string): Counterpart => ({
  flag: "--method dora",
  why: null,
  read: (value) => (isOff(value) ? NOTHING : problem(`write method: dora in place of ${key}`)),
});
