import { isRecord, show } from "../../../base/json.ts";
import {
  type Counterpart,
  each,
  isOff,
  isOneOf,
  type Meaning,
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
  dataOf,
  doraInstead,
  dtype,
  heldOutShare,
  modulesToSave,
  optimizer,
  perEpoch,
  quantization,
  schedule,
  targets,
  templateArgs,
  templateFile,
  TRAINER,
  WHY,
} from "./common.ts";

/** Types of data whose formats are told from their keys here. */
const TYPES = /^(alpaca|chat_template|sharegpt|completion|input_output|alpaca_chat\.load_qa|oasst)?$/;

/** Keys of an entry of `datasets` that change nothing here, and values of others that fit. */
const NEEDLESS = [
  "ds_type",
  "chat_template",
  "roles_to_train",
  "train_on_eos",
  "train_on_eot",
  "type",
  "path",
  "data_files",
  "shards_idx",
];

/** Paths, columns and roles of one entry of `datasets`. */
function entryOf(entry: unknown, folder: string): Meaning & { readonly paths?: readonly string[] } {
  if (!isRecord(entry)) return problem(`expected entries with a path, got ${show(entry)}`);
  const type = entry["type"] ?? "";
  if (typeof type !== "string" || !TYPES.test(type))
    return problem(
      `the type ${show(type)} is not known here: the format is told from the keys of a line (docs/verbs.md#columns)`,
    );
  const columns: string[] = [];
  const roles: string[] = [];
  const map = (ours: string, theirs: unknown, usual: readonly unknown[]): void => {
    if (!isOff(theirs) && !usual.includes(theirs)) columns.push(`${ours}=${String(theirs)}`);
  };
  map("text", entry["field"], ["text"]);
  map("messages", entry["field_messages"], ["messages", "conversations"]);
  const properties = isRecord(entry["message_property_mappings"]) ? entry["message_property_mappings"] : {};
  const [role, content] = [
    entry["message_field_role"] ?? properties["role"],
    entry["message_field_content"] ?? properties["content"],
  ];
  if (!(role === "from" && content === "value")) {
    map("role", role, ["role"]);
    map("content", content, ["content"]);
  }
  if (isRecord(entry["roles"])) {
    for (const [ours, theirs] of Object.entries(entry["roles"]))
      for (const name of [theirs].flat()) if (name !== ours) roles.push(`${String(name)}=${ours}`);
  }
  const known = [
    ...NEEDLESS,
    "field",
    "field_messages",
    "message_field_role",
    "message_field_content",
    "message_property_mappings",
    "roles",
  ];
  for (const [key, value] of Object.entries(entry)) {
    if (known.includes(key) || isOff(value) || (key === "split" && value === "train")) continue;
    return problem(`${key} of an entry has no counterpart; make a file of what it takes`);
  }
  const data = dataOf(entry["data_files"] ?? entry["path"], folder);
  if ("problem" in data) return data;
  return {
    paths: data.paths,
    set: { ...(columns.length > 0 ? { columns } : {}), ...(roles.length > 0 ? { roles } : {}) },
  };
}

const entries = (key: "data" | "valid"): Counterpart =>
  to(key, (value, folder) => {
    if (isOff(value)) return NOTHING;
    if (!Array.isArray(value)) return problem(`expected a list, got ${show(value)}`);
    const paths: string[] = [];
    const columns = new Set<string>();
    const roles = new Set<string>();
    for (const entry of value as readonly unknown[]) {
      const meaning = entryOf(entry, folder);
      if ("problem" in meaning) return meaning;
      paths.push(...(meaning.paths ?? []));
      for (const column of meaning.set.columns ?? []) columns.add(column);
      for (const role of meaning.set.roles ?? []) roles.add(role);
    }
    const mapped: Settings = {
      ...(columns.size > 0 ? { columns: [...columns] } : {}),
      ...(roles.size > 0 ? { roles: [...roles] } : {}),
    };
    return { set: { [key]: paths.join(), ...mapped } };
  });

/** Keys of axolotl's configuration files (0.13). */
export const AXOLOTL: Table = {
  ...TRAINER,
  base_model: to("model"),
  ...each(
    "base_model_config model_type tokenizer_type tokenizer_config tokenizer_use_fast tokenizer_legacy is_llama_derived_model " +
      "is_mistral_derived_model is_qwen_derived_model is_falcon_derived_model processor_type strict",
    needless("family and tokenizer are those of the model folder"),
  ),
  revision_of_model: missing("name the revision in the model: org/name@REVISION"),
  datasets: entries("data"),
  test_datasets: entries("valid"),
  val_set_size: heldOutShare,
  dataset_prepared_path: needless(WHY.tokenized),
  ...each(
    "dataset_processes dataset_keep_in_memory dataset_exact_deduplication shuffle_merged_datasets skip_prepare_dataset",
    needless(WHY.tokenized),
  ),
  adapter: to("method", (value) =>
    value === "lora"
      ? { set: { method: "lora" } }
      : value === "qlora"
        ? { set: { method: "lora", quantize: "nf4" } }
        : isOff(value)
          ? NOTHING
          : problem(`${show(value)}: ${WHY.lora}`),
  ),
  lora_model_dir: { ...to("adapter"), read: (value) => (isOff(value) ? NOTHING : { set: { adapter: value as string } }) },
  lora_r: to("rank"),
  lora_alpha: to("alpha"),
  lora_dropout: to("dropout"),
  lora_target_modules: targets,
  lora_target_linear: { ...targets, read: (value) => (isOff(value) ? NOTHING : { set: { targets: ["all-linear"] } }) },
  lora_modules_to_save: modulesToSave,
  peft_use_dora: doraInstead("adapter"),
  ...each("peft_layers_to_transform loraplus_lr_ratio peft_init_lora_weights", missing(WHY.lora)),
  ...each("lora_fan_in_fan_out lora_mlp_kernel lora_qkv_kernel lora_o_kernel", needless("it decides nothing here")),
  peft_use_rslora: to("rslora"),
  rl: to("objective", (value) =>
    isOff(value)
      ? NOTHING
      : value === "orpo" || value === "dpo" || value === "kto"
        ? { set: { objective: value } }
        : value === "ipo"
          ? { set: { objective: "dpo", dpoLoss: "ipo" } }
          : problem(
              value === "simpo"
                ? `${show(value)}: it is objective: simpo here, with simpo-beta and simpo-gamma of its own`
                : `${show(value)}: of preferences there are dpo, ipo, kto, orpo and simpo`,
            ),
  ),
  rl_beta: preferenceBeta,
  kto_desirable_weight: to("ktoDesirableWeight"),
  kto_undesirable_weight: to("ktoUndesirableWeight"),
  orpo_alpha: to("orpoLambda"),
  reward_model: to("objective", (value) => (isOff(value) ? NOTHING : { set: { objective: "reward" } })),
  center_rewards_coefficient: to("rewardCentring"),
  process_reward_model: missing("there are reward models of whole answers alone"),
  sequence_len: to("sequenceLength"),
  sample_packing: to("packing"),
  ...each(
    "eval_sample_packing pad_to_sequence_len sample_packing_bin_size sample_packing_group_size flash_attn_cross_entropy",
    needless("it decides nothing here"),
  ),
  excess_length_strategy: {
    flag: "--truncate",
    why: null,
    read: (value) =>
      value === "truncate"
        ? { set: { truncate: true } }
        : isOff(value)
          ? NOTHING
          : problem("longer examples are an error; remat data check lists them"),
  },
  micro_batch_size: to("batchSize"),
  num_epochs: to("epochs"),
  optimizer,
  lr_scheduler: schedule,
  train_on_inputs: missing('only answers are learned; what is learned whole is {"text"}'),
  ...each("roles_to_train train_on_eos train_on_eot eot_tokens", needless(WHY.endTokens)),
  chat_template: missing(WHY.template, isOneOf("tokenizer_default", "jinja")),
  chat_template_jinja: templateFile,
  chat_template_kwargs: templateArgs,
  default_system_message: missing("a system message is a message of the data"),
  special_tokens: missing("tokens are those of the model's tokenizer", (value) =>
    isRecord(value) ? Object.keys(value).every((name) => name === "pad_token") : isOff(value),
  ),
  ...each("tokens added_tokens_overrides", missing("tokens are those of the model's tokenizer")),
  ...quantization,
  torch_dtype: dtype,
  tf32: needless("it decides nothing here"),
  gradient_checkpointing: to("gradientCheckpointing", (value) =>
    value === "offload" || value === "offload_disk"
      ? { set: { gradientCheckpointing: true, offload: "auto" } }
      : { set: { gradientCheckpointing: !isOff(value) } },
  ),
  offload: switches("offload", "auto"),
  activation_offloading: switches("offload", "auto"),
  ...each(
    "flash_attention sdp_attention xformers_attention eager_attention flex_attention s2_attention flash_attn_rms_norm flash_attn_fuse_qkv",
    needless(WHY.attention),
  ),
  ...each(
    "plugins liger_rope liger_rms_norm liger_glu_activation liger_swiglu liger_layer_norm liger_fused_linear_cross_entropy cut_cross_entropy " +
      "unsloth_cross_entropy_loss chunked_cross_entropy",
    needless(WHY.attention),
  ),
  evals_per_epoch: perEpoch("--eval-every"),
  saves_per_epoch: perEpoch("--save-every"),
  ...each(
    "eval_table_size eval_max_new_tokens eval_causal_lm_metrics eval_batch_size debug dataset_shard_num",
    needless("it decides nothing here"),
  ),
  auto_resume_from_checkpoints: to("resume"),
  use_tensorboard: switches("tensorboard", true),
  ...each(
    "wandb_project wandb_entity wandb_watch wandb_name wandb_run_id wandb_log_model wandb_mode use_wandb mlflow_tracking_uri mlflow_experiment_name " +
      "comet_project_name use_comet",
    missing(WHY.services),
  ),
  ...each(
    "unfrozen_parameters relora_steps noisy_embedding_alpha",
    missing("all weights are trained, the last N blocks (--last-layers), or adapters"),
  ),
  sequence_parallel_degree: missing(WHY.oneDevice, isOneOf(1)),
};

/** Returns what axolotl does where a file says nothing. */
export function axolotlDefaults(written: Readonly<Record<string, unknown>>): Settings {
  return { packing: false, ...(isOff(written["adapter"]) ? { method: "full" } : {}) };
}
