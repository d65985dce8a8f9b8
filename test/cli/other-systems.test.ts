import { describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readConfigFile, validateConfig } from "../../src/cli/flags/config-file.ts";
import { SYSTEMS, translate } from "../../src/cli/flags/other-systems.ts";
import { flagName } from "../../src/base/names.ts";
import { parseFlags } from "../../src/cli/flags/flags.ts";
import { trainConfigSchema } from "../../src/train/config.ts";
import { rejection, temporaryFolder, userError } from "../hf/temp.ts";

const folder = temporaryFolder();

function file(name: string, content: string): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

file("alpaca.jsonl", "");
mkdirSync(join(folder, "more"));

/** Returns what a file says, with all that the schema adds and checks. */
async function readAll(path: string) {
  const { values, notes } = await readConfigFile(path);
  return { config: validateConfig(trainConfigSchema, values), values, notes };
}

test("a file of keys of ours alone is no other system's: it is read without their tables", () => {
  const keys = Object.keys(trainConfigSchema.shape);
  const written = Object.fromEntries(
    keys.flatMap((key) => [[key, 1] as const, [flagName(key).slice(2).replaceAll("-", "_"), 1] as const]),
  );
  expect(translate("train.yaml", written, new Set(keys))).toBeNull();
});

describe("axolotl", () => {
  // The keys of its examples of LoRA and QLoRA.
  const text = `base_model: NousResearch/Meta-Llama-3-8B
model_type: LlamaForCausalLM
tokenizer_type: AutoTokenizer
load_in_8bit: false
load_in_4bit: true
strict: false
datasets:
  - path: alpaca.jsonl
    type: alpaca
  - path: more
    type: chat_template
    field_messages: dialogue
    message_property_mappings: {role: speaker, content: said}
    roles: {user: [customer], assistant: [agent, assistant]}
dataset_prepared_path: last_run_prepared
val_set_size: 0.05
output_dir: ./outputs/lora-out
adapter: qlora
lora_model_dir:
sequence_len: 4096
sample_packing: true
eval_sample_packing: false
pad_to_sequence_len: true
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
lora_fan_in_fan_out:
wandb_project:
wandb_entity:
wandb_watch:
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
learning_rate: 0.0002
train_on_inputs: false
group_by_length: false
bf16: auto
fp16:
tf32: false
gradient_checkpointing: true
gradient_checkpointing_kwargs: {use_reentrant: true}
early_stopping_patience:
resume_from_checkpoint:
logging_steps: 1
flash_attention: true
warmup_steps: 10
evals_per_epoch: 4
saves_per_epoch: 1
debug:
deepspeed:
weight_decay: 0.0
fsdp:
fsdp_config:
special_tokens:
  pad_token: <|end_of_text|>
`;

  test("an example of its own is read as it is", async () => {
    const { config, notes } = await readAll(file("axolotl.yml", text));
    expect(config).toMatchObject({
      model: "NousResearch/Meta-Llama-3-8B",
      data: `${join(folder, "alpaca.jsonl")},${join(folder, "more")}`,
      columns: ["messages=dialogue", "role=speaker", "content=said"],
      roles: ["customer=user", "agent=assistant"],
      valid: "0.05",
      output: join(folder, "outputs/lora-out"),
      method: "lora",
      quantize: "nf4",
      sequenceLength: 4096,
      packing: true,
      rank: 32,
      alpha: 16,
      dropout: 0.05,
      targets: ["all-linear"],
      gradientAccumulation: 4,
      batchSize: 2,
      epochs: 4,
      schedule: "cosine",
      learningRate: 0.0002,
      gradientCheckpointing: true,
      warmup: 10,
      weightDecay: 0,
    });
    expect(config).not.toHaveProperty("steps");
    expect(notes).toEqual([
      "axolotl.yml is read as a configuration of axolotl",
      expect.stringMatching(/^evals_per_epoch: evaluation is at the start and the end, /),
      expect.stringMatching(/^saves_per_epoch: /),
    ]);
  });

  test("all keys without a counterpart are listed at once, with what to do; ours may stand beside theirs", async () => {
    const path = file(
      "more.yml",
      `${text.replace("wandb_project:", "wandb_project: mine").replace("path: more", "path: org/chats")}neftune_noise_alpha: 5\nchat_template: chatml\nsqeuence_len: 5\nmemory: 2GiB\nrl: grpo\n`,
    );
    expect((await rejection(readAll(path))).split("\n")).toEqual([
      `${path} is a configuration of axolotl; 6 of its 55 keys have no counterpart here:`,
      "  neftune_noise_alpha: noise on embeddings (NEFTune) is not added here",
      expect.stringMatching(/^ {2}datasets: org\/chats: data of the hub are not fetched; in Python: .*; then name that file$/),
      '  rl: "grpo": of preferences there are dpo, ipo, kto, orpo and simpo',
      "  chat_template: the model's own chat template is used, or a file that chat-template names",
      "  wandb_project: metrics.jsonl, --json and --tensorboard are what there is",
      "  sqeuence_len: it is not known here; did you mean sequence_len?",
      "Remove or change them; the others are read as they are.",
    ]);
    const own = file("own.yml", `${text}memory: 2GiB\nkeep-ops: [q_proj]\n`);
    expect((await readAll(own)).config).toMatchObject({ memory: "2GiB", keepOps: ["q_proj"] });
  });

  test("beta belongs to the objective that rl names", async () => {
    const kto = file("kto.yml", `${text}rl: kto\nrl_beta: 0.2\nkto_desirable_weight: 1.5\nkto_undesirable_weight: 0.5\n`);
    const { config } = await readAll(kto);
    const settings = { objective: "kto", ktoBeta: 0.2, ktoDesirableWeight: 1.5, ktoUndesirableWeight: 0.5, dpoBeta: 0.1 };
    expect(config).toMatchObject(settings);
    const dpo = file("dpo.yml", `${text}rl: dpo\nrl_beta: 0.2\n`);
    expect((await readAll(dpo)).config).toMatchObject({ objective: "dpo", dpoBeta: 0.2 });
    const reward = file("reward.yml", `${text}reward_model: true\ncenter_rewards_coefficient: 0.01\n`);
    expect((await readAll(reward)).config).toMatchObject({ objective: "reward", rewardCentring: 0.01 });
  });

  test("without an adapter all weights are trained, without sample_packing nothing is packed", async () => {
    const path = file("full.yml", "base_model: ./base\ndatasets: [{path: alpaca.jsonl, type: }]\nlearning_rate: 1e-5\n");
    const { config, notes } = await readAll(path);
    expect(config).toMatchObject({ model: join(folder, "base"), method: "full", packing: false });
    expect(notes).toEqual([
      "full.yml is read as a configuration of axolotl; what it does not say is as there: packing false, method full",
    ]);
  });
});

describe("TRL", () => {
  const text = `model_name_or_path: Qwen/Qwen2-0.5B
dataset_name: alpaca.jsonl
learning_rate: 2.0e-4
num_train_epochs: 1
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
gradient_checkpointing: true
gradient_checkpointing_kwargs: {use_reentrant: false}
logging_steps: 25
eval_strategy: steps
eval_steps: 100
save_strategy: epoch
use_peft: true
lora_r: 32
lora_alpha: 16
report_to: [none]
output_dir: Qwen2-0.5B-SFT
push_to_hub: false
neftune_noise_alpha:
`;

  test("a file is read as it is, and what it does not say is as in TRL", async () => {
    const { config, notes } = await readAll(file("trl.yaml", text));
    expect(config).toMatchObject({
      model: "Qwen/Qwen2-0.5B",
      data: join(folder, "alpaca.jsonl"),
      learningRate: 2e-4,
      epochs: 1,
      batchSize: 2,
      gradientAccumulation: 8,
      evalEvery: 100,
      method: "lora",
      rank: 32,
      alpha: 16,
      dropout: 0.05,
      targets: ["q_proj", "v_proj"],
      schedule: "linear",
      warmup: 0,
      packing: false,
      sequenceLength: 1024,
      truncate: true,
      tensorboard: false,
      output: join(folder, "Qwen2-0.5B-SFT"),
    });
    expect(notes[0]).toBe(
      "trl.yaml is read as a configuration of TRL and PEFT; what it does not say is as there: schedule linear, warmup 0, sequence-length 1024, truncate true, packing false, method lora, dropout 0.05, targets q_proj,v_proj",
    );
    expect(notes[1]).toBe("of conversations, only the assistant's turns are learned here, as with assistant_only_loss: true");
    expect(notes[2]).toStartWith("save_strategy: ");
    const told = file("told.yaml", `${text}assistant_only_loss: true\n`);
    expect((await readAll(told)).notes[1]).toStartWith("save_strategy: ");
  });

  test("without use_peft all weights are trained; a schedule of steps counts before one of a share", async () => {
    const path = file(
      "full.yaml",
      "model_name_or_path: a\ndataset_name: alpaca.jsonl\nwarmup_steps: 20\nwarmup_ratio: 0.1\nmax_steps: 50\n",
    );
    expect((await readAll(path)).config).toMatchObject({ method: "full", warmup: 20, steps: 50 });
    // What TRL passes over is passed over here.
    const { config, notes } = await readAll(file("passed.yaml", `${text.replace("use_peft: true", "use_peft: false")}`));
    expect([config.method, config.rank, config.alpha]).toEqual(["full", undefined, undefined]);
    expect(notes).toContain("rank, alpha: left out, since method full has no such setting");
    const off = file(
      "off.yaml",
      "model_name_or_path: a\ndataset_name: alpaca.jsonl\nwarmup_steps: 0\nwarmup_ratio: 0.1\nmax_steps: -1\n",
    );
    expect((await readAll(off)).config).toMatchObject({ warmup: 0.1 });
  });

  test("values without a counterpart", async () => {
    const path = file(
      "values.yaml",
      `${text.replace("[none]", "[wandb, tensorboard]").replace("push_to_hub: false", "push_to_hub: true")}lr_scheduler_type: polynomial\nbnb_4bit_quant_type: fp4\nlora_target_modules: '.*proj'\nresume_from_checkpoint: out/checkpoint-5\n`,
    );
    expect((await rejection(readAll(path))).split("\n").slice(1, -1)).toEqual([
      expect.stringMatching(/^ {2}lr_scheduler_type: "polynomial" is not one of cosine, /),
      "  resume_from_checkpoint: a run is gone on with by its folder: remat train RUN --resume",
      '  report_to: ["wandb","tensorboard"]: metrics.jsonl, --json and --tensorboard are what there is; remove the others',
      "  push_to_hub: upload the run folder with the hub's own tools",
      "  bnb_4bit_quant_type: 4 bits are NF4",
      '  lora_target_modules: ".*proj" is a pattern; write a list of the modules\' names, or all-linear',
    ]);
  });
});

describe("other systems", () => {
  test("LLaMA-Factory's data and template are answered by name, all at once", async () => {
    const text =
      "model_name_or_path: a\nstage: sft\ndo_train: true\nfinetuning_type: lora\nlora_rank: 8\nlora_target: all\ndataset: identity,alpaca_en_demo\n" +
      "template: llama3\ncutoff_len: 2048\nmax_samples: 1000\nper_device_train_batch_size: 1\nval_size: 0.1\nplot_loss: true\n";
    const path = file("factory.yaml", text);
    expect((await rejection(readAll(path))).split("\n").slice(0, -1)).toEqual([
      `${path} is a configuration of LLaMA-Factory; 3 of its 13 keys have no counterpart here:`,
      "  template: the model's own chat template is used, or a file that chat-template names",
      "  dataset: name the file that dataset_info.json names, as data: FILE",
      "  max_samples: all examples are used; --data FILE=0.1 takes a tenth of them in an epoch",
    ]);
  });

  test("LLaMA-Factory's stage rm is a reward model", async () => {
    const path = file("rm.yaml", "model_name_or_path: a\nstage: rm\nfinetuning_type: lora\ndata: pairs.jsonl\n");
    expect((await readAll(path)).config).toMatchObject({ objective: "reward", method: "lora" });
  });

  test("LLaMA-Factory's stage kto, with its beta and its weights", async () => {
    const text =
      "model_name_or_path: a\nstage: kto\nfinetuning_type: lora\ndata: answers.jsonl\npref_beta: 0.3\nkto_chosen_weight: 2\nkto_rejected_weight: 0.5\n";
    expect((await readAll(file("kto.yaml", text))).config).toMatchObject({
      objective: "kto",
      ktoBeta: 0.3,
      ktoDesirableWeight: 2,
      ktoUndesirableWeight: 0.5,
    });
  });

  test("MLX-LM", async () => {
    const text =
      "model: ./base\ntrain: true\ndata: more\niters: 600\nbatch_size: 4\nnum_layers: 16\nlora_parameters: {rank: 8, scale: 20.0, dropout: 0.0}\n";
    expect((await readAll(file("mlx.yaml", text))).config).toMatchObject({
      model: join(folder, "base"),
      data: join(folder, "more"),
      steps: 600,
      batchSize: 4,
      lastLayers: 16,
      rank: 8,
      alpha: 160,
      dropout: 0,
    });
  });

  test("DeepSpeed's JSON and accelerate's YAML say what of them belongs into a configuration", async () => {
    const json = {
      train_micro_batch_size_per_gpu: 4,
      gradient_accumulation_steps: 2,
      gradient_clipping: 1,
      bf16: { enabled: true },
      zero_optimization: { stage: 3, offload_param: { device: "cpu" } },
    };
    const path = file("ds.json", JSON.stringify(json));
    expect((await rejection(readAll(path))).split("\n")).toEqual([
      `${path} is a configuration of DeepSpeed, which does not say what is trained; remat train takes model, data and these:`,
      "  batch-size: 4",
      "  gradient-accumulation: 2",
      "  clip: 1",
      "  dtype: bf16",
      "  # zero_optimization: a run has one device; what ZeRO saves is saved by --memory LIMIT, --offload auto and --quantize nf4",
    ]);
    const accelerate = file(
      "accelerate.yaml",
      "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nmixed_precision: bf16\n",
    );
    expect(await rejection(readAll(accelerate))).toContain("accelerate.yaml is a configuration of accelerate, ");
  });

  test("a configuration in Python: what it sets, as YAML", async () => {
    const path = file(
      "internlm2_qlora.py",
      "# Copyright\nfrom mmengine.config import read_base\npretrained_model_name_or_path = 'internlm/internlm2-7b'\nprompt_template = PROMPT_TEMPLATE.default\n" +
        "max_length = 2048\npack_to_max_length = True\nbatch_size = 1  # per_device\naccumulative_counts = 16\nlr = 2e-4\nbetas = (0.9, 0.999)\nmax_norm = 1\n" +
        "data_path = 'alpaca.jsonl'\nsave_steps = 500\nevaluation_inputs = [\n    'Please tell me', 'and you'\n]\n",
    );
    expect((await rejection(readAll(path))).split("\n")).toEqual([
      `${path} is a program in Python, as XTuner's configurations are, and cannot be read; a configuration here is YAML. What it sets, for a file of your own:`,
      "  model: internlm/internlm2-7b",
      "  data: alpaca.jsonl",
      "  sequence-length: 2048",
      "  packing: true",
      "  batch-size: 1",
      "  gradient-accumulation: 16",
      "  learning-rate: 0.0002",
      "  beta1: 0.9",
      "  beta2: 0.999",
      "  clip: 1",
      "  save-every: 500",
    ]);
  });

  test.each([
    [["--use_reentrant", "False"], "there is no such flag: there is no autograd engine to re-enter"],
    [["--neftune_noise_alpha", "5"], "there is no such flag: noise on embeddings (NEFTune) is not added here"],
    [["--deepspeed", "ds.json"], "there is no such flag: a run has one device"],
    [
      ["--report_to", "wandb"],
      'it is --tensorboard here: "wandb": metrics.jsonl, --json and --tensorboard are what there is; remove the others',
    ],
    [["--report_to", "tensorboard"], "it is --tensorboard here"],
    [
      ["--lr_scheduler_type=polynomial"],
      'it is --schedule here: "polynomial" is not one of cosine, linear, constant, constant_with_warmup',
    ],
    [["--lora_target_modules", "q_proj"], "it is --targets here"],
  ])("%j", (args, message) => expect(userError(() => parseFlags(trainConfigSchema, args))).toEndWith(`; ${message}`));
});

describe("the tables", () => {
  test("every flag that they name exists", () => {
    const known = Object.keys(trainConfigSchema.shape).map(flagName);
    const others = ["--type", "--temperature", "--prompt", "--max-new-tokens"];
    for (const { table } of SYSTEMS) {
      for (const { flag } of Object.values(table)) {
        const name = flag?.split(" ")[0]!.replace(/^--no-/, "--");
        if (name !== undefined) expect([...known, ...others]).toContain(name);
      }
    }
  });
});
