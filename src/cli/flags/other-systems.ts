/**
 * What flags and keys of other systems (TRL, PEFT, axolotl, XTuner, MLX-LM, Unsloth, llama.cpp) are called here: for the error that
 * an unknown one gets. docs/coming-from.md says more; a test compares the two.
 */
const COUNTERPARTS: Readonly<Record<string, string>> = {
  "--model": "model_name_or_path base_model pretrained_model_name_or_path m",
  "--data": "dataset_name dataset datasets data_path train_file",
  "--valid": "eval_dataset val_set_size val_split",
  "--output": "output_dir work_dir adapter_path",
  "--adapter": "adapter_path lora_model_dir lora resume_adapter_file",
  "--overwrite": "overwrite_output_dir",
  "--method": "fine_tune_type finetuning_type",
  "--rank": "r lora_r lora_rank",
  "--alpha": "lora_alpha",
  "--dropout": "lora_dropout",
  "--targets": "target_modules lora_target_modules lora_target_linear",
  "--rslora": "use_rslora",
  "--last-layers": "num_layers layers_to_transform lora_layers",
  "--sequence-length": "max_length max_seq_length max_seq_len sequence_len",
  "--truncate": "truncation",
  "--batch-size": "per_device_train_batch_size micro_batch_size",
  "--gradient-accumulation": "gradient_accumulation_steps grad_accumulation_steps accumulative_counts",
  "--packing": "sample_packing pack_to_max_length",
  "--no-packing": "group_by_length",
  "--epochs": "num_train_epochs num_epochs max_epochs",
  "--steps": "max_steps iters",
  "--learning-rate": "lr",
  "--schedule": "lr_scheduler lr_scheduler_type",
  "--warmup": "warmup_steps warmup_ratio",
  "--weight-decay": "wd",
  "--beta1": "adam_beta1",
  "--beta2": "adam_beta2",
  "--epsilon": "adam_epsilon",
  "--optimizer": "optim optimizer_type",
  "--clip": "max_grad_norm max_norm",
  "--seed": "random_state random_seed",
  "--gradient-checkpointing": "grad_checkpoint activation_checkpoint use_gradient_checkpointing",
  "--no-gradient-checkpointing": "no_checkpointing",
  "--memory LIMIT": "auto_find_batch_size",
  "--eval-every": "eval_steps eval_strategy evaluation_strategy steps_per_eval evaluation_freq evals_per_epoch",
  "--eval-limit": "val_batches",
  "--save-every": "save_steps save_strategy saves_per_epoch",
  "--keep": "save_total_limit",
  "--resume": "resume_from_checkpoint auto_resume_from_checkpoints",
  "--patience": "early_stopping_patience",
  "--load-best": "load_best_model_at_end",
  "--tensorboard": "report_to",
  "--dtype bf16": "bf16",
  "--dtype f16": "fp16",
  "--dtype": "torch_dtype",
  "--quantize nf4": "load_in_4bit",
  "--quantize q8": "load_in_8bit",
  "--device": "device_map",
  "--type": "quantization_method outtype",
  "--temperature": "temp",
  "--prompt": "p",
  "--max-new-tokens": "n n_predict",
};

const VERBS: Readonly<Record<string, string>> = {
  train: "lora finetune fine-tune sft",
  merge: "fuse merge-lora merge-and-unload",
  chat: "inference run",
  eval: "evaluate perplexity test",
  data: "preprocess dataset",
};

/** Why some are not needed, or are missing. */
const NONE: Readonly<Record<string, string>> = {
  "each step is shown and kept in metrics.jsonl": "logging_steps steps_per_report",
  "attention and loss never form their large matrices": "attn_implementation use_liger_kernel flash_attention sdp_attention",
  "examples are tokenized once and kept on disk": "dataloader_num_workers dataset_num_proc preprocess",
  "only answers are learned": "mask_prompt train_on_inputs assistant_only_loss completion_only_loss train_on_responses_only",
  "the assistant's turns are learned with the token that ends them": "roles_to_train train_on_eos",
  "the model's own chat template is used": "chat_template prompt_template",
  "the format of data is told from the keys of a line": "dataset_text_field dataset_map_fn",
  "metrics.jsonl, --json and --tensorboard are what there is": "wandb_project mlflow_tracking_uri",
  "a configuration is named without a flag, remat train FILE": "config c config_file",
  "a run has one device": "deepspeed fsdp",
  "upload the run folder with the hub's own tools": "push_to_hub hub_model_id",
  "adapters are plain LoRA": "use_dora modules_to_save",
  "training has one rank and one alpha": "rank_pattern alpha_pattern",
  "there is no autograd engine to re-enter": "gradient_checkpointing_kwargs",
};

const plain = (name: string): string => name.toLowerCase().replaceAll(/[^a-z0-9]/g, "");

/** By plain name: flags with their values, or why there is none. */
const BY_NAME = new Map<string, { flags: string[]; why: string | null }>();
for (const [table, isFlag] of [
  [COUNTERPARTS, true],
  [NONE, false],
] as const) {
  for (const [here, names] of Object.entries(table)) {
    for (const name of names.split(" ").map(plain)) {
      const entry = BY_NAME.get(name) ?? { flags: [], why: null };
      BY_NAME.set(name, isFlag ? { ...entry, flags: [...entry.flags, here] } : { ...entry, why: here });
    }
  }
}

/**
 * What a flag or key of another system is here: a flag of `known` (names with `--`), with its value if it has one, or a sentence.
 * Null for a name that is not known from elsewhere, or has no counterpart in `known`.
 */
export function counterpartOf(
  name: string,
  known: readonly string[],
): { readonly flag: string } | { readonly why: string } | null {
  const entry = BY_NAME.get(plain(name));
  const flag = entry?.flags.find((text) => known.includes(text.replace(/^--no-/, "--").split(" ")[0]!));
  if (flag !== undefined) return { flag };
  return entry?.why ? { why: entry.why } : null;
}

/** The verb that does here what one of that name does elsewhere; null for others. */
export function verbFor(name: string): string | null {
  return Object.keys(VERBS).find((verb) => VERBS[verb]!.split(" ").some((other) => plain(other) === plain(name))) ?? null;
}
