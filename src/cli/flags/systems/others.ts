import { show } from "../../../base/json.ts";
import { each, isOff, isOneOf, missing, needless, NOTHING, problem, switches, type Table, to, verbFlag } from "./counterpart.ts";
import { everySteps, optimizer, positiveOnly, quantization, readData, reportTo, targets, WHY } from "./common.ts";

/** Keys of a DeepSpeed configuration (0.18). */
export const DEEPSPEED: Table = {
  train_batch_size: {
    flag: "--gradient-accumulation",
    why: null,
    read: () => problem("it is batch-size times gradient-accumulation here"),
  },
  train_micro_batch_size_per_gpu: to("batchSize"),
  gradient_accumulation_steps: to("gradientAccumulation"),
  gradient_clipping: to("clip"),
  optimizer: {
    flag: "--optimizer",
    why: null,
    read: () => problem("optimizer, learning-rate, beta1, beta2, epsilon and weight-decay say it here"),
  },
  scheduler: { flag: "--schedule", why: null, read: () => problem("schedule and warmup say it here") },
  bf16: switches("dtype", "bf16"),
  fp16: switches("dtype", "f16"),
  activation_checkpointing: needless("gradient checkpointing is on; --strategy and --memory say how"),
  zero_optimization: missing(`${WHY.oneDevice}; what ZeRO saves is saved by --memory LIMIT, --offload auto and --quantize nf4`),
  ...each("zero_allow_untested_optimizer zero_force_ds_cpu_optimizer communication_data_type", missing(WHY.oneDevice)),
  ...each("steps_per_print wall_clock_breakdown flops_profiler", needless(WHY.steps)),
  ...each("tensorboard", switches("tensorboard", true)),
  ...each("wandb comet", missing(WHY.services)),
};

/** Names in XTuner's configurations in Python (0.2), and flags of its command line. */
export const XTUNER: Table = {
  pretrained_model_name_or_path: to("model"),
  data_path: to("data", readData),
  data_files: to("data", readData),
  max_length: to("sequenceLength"),
  pack_to_max_length: to("packing"),
  batch_size: to("batchSize"),
  accumulative_counts: to("gradientAccumulation"),
  lr: to("learningRate"),
  betas: {
    flag: "--beta1",
    why: null,
    read: (value) => (Array.isArray(value) ? { set: { beta1: value[0] as number, beta2: value[1] as number } } : NOTHING),
  },
  weight_decay: to("weightDecay"),
  max_norm: to("clip"),
  max_epochs: to("epochs"),
  warmup_ratio: to("warmup"),
  save_steps: everySteps("saveEvery"),
  save_total_limit: positiveOnly("keep"),
  evaluation_freq: everySteps("evalEvery"),
  work_dir: to("output"),
  seed: to("seed"),
  randomness: { flag: "--seed", why: null, read: () => problem("the seed is seed: N here") },
  resume: to("resume"),
  load_from: to("adapter", (value) => (isOff(value) ? NOTHING : { set: { adapter: String(value) } })),
  activation_checkpoint: to("gradientCheckpointing"),
  ...each("dataset_map_fn template_map_fn dataset_format", needless(WHY.format)),
  prompt_template: needless(WHY.template),
  ...each("evaluation_inputs SYSTEM", needless("a held-out prompt is answered before and after training")),
  ...each(
    "dataloader_num_workers optim_type use_varlen_attn sequence_parallel_size shuffle_before_pack",
    needless("it decides nothing here"),
  ),
  deepspeed: missing(WHY.oneDevice),
  ...quantization,
};

/** Keys of MLX-LM's configuration files, and its flags (0.31). */
export const MLX: Table = {
  model: to("model"),
  train: needless("remat train is what trains"),
  test: needless("remat eval measures"),
  data: to("data", readData),
  fine_tune_type: to("method", (value) =>
    value === "lora" || value === "dora" || value === "full"
      ? { set: { method: value } }
      : problem(`${show(value)}: ${WHY.lora}`),
  ),
  iters: positiveOnly("steps"),
  batch_size: to("batchSize"),
  max_seq_length: to("sequenceLength"),
  learning_rate: to("learningRate"),
  seed: to("seed"),
  grad_checkpoint: to("gradientCheckpointing"),
  mask_prompt: needless(WHY.answers),
  steps_per_eval: everySteps("evalEvery"),
  steps_per_report: needless(WHY.steps),
  save_every: everySteps("saveEvery"),
  val_batches: {
    flag: "--eval-limit",
    why: null,
    read: (value) =>
      isOff(value) || value === -1 ? NOTHING : { set: {}, note: "val_batches: --eval-limit limits an evaluation, in tokens" },
  },
  adapter_path: to("output"),
  grad_accumulation_steps: to("gradientAccumulation"),
  optimizer,
  optimizer_config: missing("beta1, beta2, epsilon and weight-decay are settings of their own"),
  resume_adapter_file: to("adapter", (value) => (isOff(value) ? NOTHING : { set: { adapter: String(value) } })),
  ...each(
    "num_layers lora_layers",
    to("lastLayers", (value) => (Number(value) > 0 ? { set: { lastLayers: Number(value) } } : NOTHING)),
  ),
  lora_parameters: {
    flag: "--rank",
    why: null,
    read(value) {
      const { rank, scale, dropout, keys, ...rest } = value as {
        rank?: number;
        scale?: number;
        dropout?: number;
        keys?: unknown;
      };
      if (Object.keys(rest).length > 0 || !isOff(keys))
        return problem("rank, alpha (scale times rank), dropout and targets are settings of their own");
      return {
        set: {
          ...(rank === undefined ? {} : { rank }),
          ...(rank === undefined || scale === undefined ? {} : { alpha: scale * rank }),
          ...(dropout === undefined ? {} : { dropout }),
        },
      };
    },
  },
  lr_schedule: {
    flag: "--schedule",
    why: null,
    read: (value) => (isOff(value) ? NOTHING : problem("schedule: cosine, linear or constant, and warmup, say it here")),
  },
  report_to: reportTo,
  wandb: missing(WHY.services),
  ...each("temp", verbFlag("--temperature")),
};

/** Arguments of Unsloth's functions. */
export const UNSLOTH: Table = {
  max_seq_length: to("sequenceLength"),
  r: to("rank"),
  lora_alpha: to("alpha"),
  target_modules: targets,
  use_gradient_checkpointing: to("gradientCheckpointing", (value) => ({ set: { gradientCheckpointing: !isOff(value) } })),
  train_on_responses_only: needless(WHY.answers),
  random_state: to("seed"),
  quantization_method: verbFlag("--type"),
  load_in_4bit: switches("quantize", "nf4"),
  full_finetuning: switches("method", "full"),
};

/** Flags of llama.cpp's programs. */
export const LLAMA_CPP: Table = {
  m: verbFlag("--model"),
  f: to("data"),
  c: missing("a configuration is named without a flag, remat train FILE"),
  ...each("config config_file", missing("a configuration is named without a flag, remat train FILE")),
  p: verbFlag("--prompt"),
  ...each("n n_predict", verbFlag("--max-new-tokens")),
  outtype: verbFlag("--type"),
  lora: verbFlag("--adapter"),
  no_checkpointing: switches("gradientCheckpointing", false),
  val_split: to("valid"),
  wd: to("weightDecay"),
  random_seed: to("seed"),
};

/** Keys of accelerate's configuration files. */
export const ACCELERATE: Table = {
  ...each(
    "compute_environment distributed_type num_machines num_processes machine_rank main_training_function rdzv_backend same_network",
    needless(WHY.oneDevice),
  ),
  mixed_precision: {
    flag: "--dtype",
    why: null,
    read: (value) => (isOneOf("no")(value) ? NOTHING : problem(`dtype: ${value === "fp16" ? "f16" : "bf16"} says it here`)),
  },
  ...each("deepspeed_config fsdp_config", missing(WHY.oneDevice)),
};
