import { show } from "../../../base/json.ts";
import { ADAPTER_METHODS } from "../../../models/adapters/index.ts";
import {
  type Counterpart,
  each,
  isOff,
  isOneOf,
  missing,
  needless,
  NOTHING,
  preferenceBeta,
  problem,
  type Settings,
  switches,
  type Table,
  to,
} from "./counterpart.ts";
import {
  doraInstead,
  dtype,
  heldOutShare,
  modulesToSave,
  optimizer,
  positiveOnly,
  quantization,
  readData,
  readPattern,
  targetParameters,
  targets,
  templateArgs,
  templateFile,
  TRAINER,
  WHY,
} from "./common.ts";

/** TRL mixes datasets as a list of them, each with a path. */
const datasets: Counterpart = to("data", (value, folder) => {
  if (!Array.isArray(value)) return readData(value, folder);
  const paths = value.map((entry: unknown) =>
    typeof entry === "object" && entry !== null ? (entry as { path?: unknown }).path : entry,
  );
  return readData(paths, folder);
});

/** Keys of TRL's SFT script (1.16) and Transformers' Trainer (5.23), and of PEFT's LoraConfig. */
export const HUGGING_FACE: Table = {
  ...TRAINER,
  model_name_or_path: to("model"),
  model_revision: missing("name the revision in the model: org/name@REVISION", isOneOf("main")),
  dataset_name: to("data", readData),
  dataset: to("data", readData),
  datasets,
  ...each("dataset_config dataset_kwargs dataset_streaming", missing("data are files here: name them")),
  dataset_train_split: missing("data are files here: name the split's file", isOneOf("train")),
  dataset_test_split: needless("held-out examples are --valid FILE", isOneOf("test", "validation")),
  dataset_text_field: needless(WHY.format, isOneOf("text"), "the column of texts is named with --columns text=NAME"),
  eval_dataset: to("valid"),
  completion_only_loss: needless(
    WHY.answers,
    (value) => value === true,
    'only answers are learned; what is learned whole is {"text"}',
  ),
  assistant_only_loss: needless(WHY.answers),
  ...each("truncation truncation_mode", {
    ...switches("truncate", true),
    read: (value) => (isOneOf("keep_start")(value) ? NOTHING : problem("the beginning is what is kept")),
  }),
  max_length: to("sequenceLength"),
  max_seq_length: to("sequenceLength"),
  packing: to("packing"),
  packing_strategy: needless("rows are packed best fit first", isOneOf("bfd", "bfd_split")),
  ...each("padding_free pad_to_multiple_of shuffle_dataset", needless("it decides nothing here")),
  pad_token: needless("padding is masked everywhere"),
  eos_token: missing(WHY.endTokens),
  chat_template_path: templateFile,
  chat_template_kwargs: templateArgs,
  loss_type: needless("the loss is the cross entropy of the next token", isOneOf("nll")),
  per_device_train_batch_size: to("batchSize"),
  num_train_epochs: to("epochs"),
  activation_offloading: switches("offload", "auto"),
  use_cpu: switches("device", "wasm"),
  dtype,
  torch_dtype: dtype,
  model_init_kwargs: missing("models are loaded in one way"),
  ...quantization,
  use_peft: {
    flag: "--method lora",
    why: null,
    // What it switches on is the default; use_dora may say more.
    read: (value) => ({ set: isOff(value) ? { method: "full" } : {} }),
  },
  lora_r: to("rank"),
  r: to("rank"),
  lora_alpha: to("alpha"),
  lora_dropout: to("dropout"),
  lora_target_modules: targets,
  target_modules: targets,
  ...each("lora_target_parameters target_parameters", targetParameters),
  ...each("lora_modules_to_save modules_to_save", modulesToSave),
  ...each(
    "lora_task_type task_type",
    needless("what is trained is a causal language model", isOneOf("CAUSAL_LM"), `training is next-token prediction`),
  ),
  use_rslora: to("rslora"),
  use_dora: switches("method", "dora"),
  rank_pattern: to("rankPattern", readPattern("rankPattern")),
  alpha_pattern: to("alphaPattern", readPattern("alphaPattern")),
  layers_to_transform: {
    flag: "--last-layers",
    why: null,
    read: (value) => (isOff(value) ? NOTHING : problem("last-layers: N trains the last N blocks")),
  },
  bias: to("bias"),
  lora_model_dir: to("adapter"),
  wd: to("weightDecay"),
  max_norm: to("clip"),
  max_epochs: to("epochs"),
  ...each("optimizer optimizer_type", optimizer),
  train_file: to("data", readData),
  validation_file: to("valid"),
};

/** Returns what TRL's `sft` does where a file says nothing. */
export function trlDefaults(written: Readonly<Record<string, unknown>>): Settings {
  const lora: Settings = { method: "lora", rank: 16, alpha: 32, dropout: 0.05, targets: ["q_proj", "v_proj"] };
  return {
    epochs: 3,
    batchSize: 8,
    learningRate: 2e-5,
    schedule: "linear",
    warmup: 0,
    sequenceLength: 1024,
    truncate: true,
    packing: false,
    ...(isOff(written["use_peft"]) ? { method: "full" } : lora),
  };
}

/** TRL learns whole conversations unless it is told otherwise. */
export function trlDiffers(written: Readonly<Record<string, unknown>>): string | null {
  return written["assistant_only_loss"] === true
    ? null
    : "of conversations, only the assistant's turns are learned here, as with assistant_only_loss: true";
}

/** Keys of LLaMA-Factory (0.9), which passes the Trainer's on. */
export const LLAMA_FACTORY: Table = {
  ...TRAINER,
  model_name_or_path: to("model"),
  adapter_name_or_path: to("adapter"),
  stage: to("objective", (value) =>
    value === "sft" || value === "pt"
      ? NOTHING
      : value === "dpo" || value === "kto"
        ? { set: { objective: value } }
        : value === "rm"
          ? { set: { objective: "reward" } }
          : problem(
              `${show(value)}: training is next-token prediction, or --objective dpo, kto, orpo, simpo, reward, classify, embed, rerank, mlm or distil`,
            ),
  ),
  pref_beta: preferenceBeta,
  kto_chosen_weight: to("ktoDesirableWeight"),
  kto_rejected_weight: to("ktoUndesirableWeight"),
  pref_loss: to("dpoLoss", (value) =>
    value === "sigmoid" || value === "hinge" || value === "ipo"
      ? { set: { dpoLoss: value } }
      : problem(`${show(value)}: losses of dpo are sigmoid, hinge and ipo; orpo and simpo are objectives of their own`),
  ),
  finetuning_type: to("method", (value) =>
    value === "lora" || value === "full"
      ? { set: { method: value } }
      : problem(
          `${show(value)}: what is trained is ${ADAPTER_METHODS.join(", ")} or full; --last-layers N trains the last blocks`,
        ),
  ),
  template: missing(WHY.template, isOneOf("default")),
  enable_thinking: to("templateArgs", (value) => ({ set: { templateArgs: JSON.stringify({ enable_thinking: value }) } })),
  dataset: { flag: "--data", why: null, read: () => problem("name the file that dataset_info.json names, as data: FILE") },
  eval_dataset: {
    flag: "--valid",
    why: null,
    read: (value) => (isOff(value) ? NOTHING : problem("name the file that dataset_info.json names, as valid: FILE")),
  },
  dataset_dir: needless("files of data are named one by one"),
  val_size: heldOutShare,
  cutoff_len: to("sequenceLength"),
  max_samples: missing("all examples are used; --data FILE=0.1 takes a tenth of them in an epoch"),
  mix_strategy: needless(
    "sources are mixed by their weights: --data a.jsonl=2,b.jsonl=0.5",
    isOneOf("concat"),
    "weights mix sources: data: a.jsonl=2,b.jsonl=0.5",
  ),
  ...each("preprocessing_num_workers overwrite_cache tokenized_path preprocessing_batch_size", needless(WHY.tokenized)),
  train_on_prompt: missing(WHY.answers),
  mask_history: missing("all of the assistant's turns are learned; a message's weight 0 leaves one out"),
  per_device_train_batch_size: to("batchSize"),
  num_train_epochs: to("epochs"),
  packing: to("packing"),
  neat_packing: needless("packed examples never see each other"),
  lora_rank: to("rank"),
  lora_alpha: to("alpha"),
  lora_dropout: to("dropout"),
  lora_target: to("targets", (value) => (value === "all" ? { set: { targets: ["all-linear"] } } : targets.read(value, "", {}))),
  use_rslora: to("rslora"),
  use_dora: doraInstead("finetuning_type"),
  additional_target: modulesToSave,
  ...each("loraplus_lr_ratio pissa_init use_galore use_badam", missing(WHY.lora)),
  freeze_trainable_layers: to("lastLayers"),
  quantization_bit: to("quantize", (value) =>
    value === 4
      ? { set: { quantize: "nf4" } }
      : value === 8
        ? { set: { quantize: "q8" } }
        : problem("weights are quantised to 4 or 8 bits"),
  ),
  quantization_method: missing("weights are quantised as bitsandbytes does", isOneOf("bitsandbytes", "bnb")),
  double_quantization: missing(WHY.twice),
  ...each("flash_attn enable_liger_kernel", needless(WHY.attention)),
  disable_gradient_checkpointing: switches("gradientCheckpointing", false),
  plot_loss: needless("report.html in the run folder draws the losses"),
  ...each("use_swanlab swanlab_project", missing(WHY.services)),
  ref_model: missing("training is next-token prediction"),
  steps: positiveOnly("steps"),
};

/** LLaMA-Factory's behaviour where a file says nothing. */
export const LLAMA_FACTORY_DEFAULTS: Settings = {
  epochs: 3,
  batchSize: 8,
  learningRate: 5e-5,
  schedule: "linear",
  warmup: 0,
  sequenceLength: 2048,
  truncate: true,
  packing: false,
};
