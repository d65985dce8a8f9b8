/** Turns the run folder of the base model's training into the model folder that is committed. */
import { copyFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { elements } from "../../src/graph/types.ts";
import { makeFolder, writeTextAtomic } from "../../src/base/files/files.ts";
import { readJsonObject } from "../../src/base/json.ts";
import { fromFloat32 } from "../../src/base/float16.ts";
import { openSafetensors, readFloat32 } from "../../src/hf/weights/safetensors.ts";
import { writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { sampleTexts } from "./sample.ts";

const TEMPERATURE = 0.7;
const SAMPLE_SEED = 1;
const PROMPTS = [
  "And it came to pass",
  "The LORD is",
  "Marriage, n.",
  "<|im_start|>user\nDefine love.<|im_end|>\n<|im_start|>assistant\n",
];

interface Metric {
  readonly type: "step" | "evaluation";
  readonly step: number;
  readonly loss: number;
  readonly tokens?: number;
  readonly seconds?: number;
}

export async function finish(run: string, model: string): Promise<void> {
  makeFolder(model);
  const parameters = narrowWeights(run, model);
  const config = { ...readJsonObject(join(run, "config.json")), torch_dtype: "bfloat16" };
  writeTextAtomic(join(model, "config.json"), `${JSON.stringify(config, null, 2)}\n`);
  for (const file of ["generation_config.json", "tokenizer.json", "tokenizer_config.json"])
    copyFileSync(join(run, file), join(model, file));
  const samples = await sampleTexts(model, PROMPTS, TEMPERATURE, SAMPLE_SEED);
  writeTextAtomic(join(model, "README.md"), modelCard(run, parameters, samples));
}

/** Stores the weights as bfloat16. Returns their number. */
function narrowWeights(run: string, model: string): number {
  const source = openSafetensors(run);
  try {
    const entries = [...source.tensors.values()];
    const narrow = (name: string, shape: readonly number[]) => fromFloat32(readFloat32(source, name, shape), "bf16");
    writeSafetensors(
      join(model, "model.safetensors"),
      entries.map(({ name, shape }) => ({ name, shape, dtype: "bf16", data: () => narrow(name, shape) })),
    );
    return entries.reduce((sum, { shape }) => sum + elements(shape), 0);
  } finally {
    source.close();
  }
}

function modelCard(run: string, parameters: number, samples: readonly string[]): string {
  const lines = readFileSync(join(run, "metrics.jsonl"), "utf8").trimEnd().split("\n");
  const metrics = lines.map((line) => JSON.parse(line) as Metric);
  const steps = metrics.filter(({ type }) => type === "step");
  const tokens = steps.reduce((sum, step) => sum + (step.tokens ?? 0), 0);
  const last = steps.slice(-50);
  const trainLoss = last.reduce((sum, { loss }) => sum + loss, 0) / last.length;
  const settings = readJsonObject(join(run, "train-config.json"));
  const row = ({ step, loss }: Metric) => `| ${step} | ${loss.toFixed(4)} | ${Math.exp(loss).toFixed(1)} |`;
  const show = (prompt: string, i: number) => `    ${(prompt + "⟶" + samples[i]!).replaceAll("\n", "\n    ")}\n`;
  return `---
language: en
license: other
license_name: public-domain
pipeline_tag: text-generation
tags: [llama, tiny]
---

# A tiny base model

A Llama-architecture language model of ${(parameters / 1e6).toFixed(2)} million parameters (bfloat16) with its own byte-level
BPE tokenizer of 2048 tokens. It is made to be fine-tuned in an example, and for nothing else: it writes English words
in plausible order, in the voice of the King James Bible, and knows no facts.

## Training

Made by the recipe in \`recipes/base\` with this repository's own software: full fine-tuning from random weights.

- **Text:** the King James Bible, a tenth of it again as dialogue in the ChatML template, and the training part of
  Ambrose Bierce's The Devil's Dictionary as running text. Both are in the public domain.
- **Run:** ${steps.length} steps, ${(tokens / 1e6).toFixed(2)} million tokens, seed ${String(settings["seed"])}; rows of
  ${String(settings["sequenceLength"])} tokens, ${String(settings["batchSize"])} a step; AdamW, peak learning rate ${String(settings["learningRate"])}, cosine, weight decay ${String(settings["weightDecay"])}.
- **Loss** (nats per token) on the last 50 steps: ${trainLoss.toFixed(4)}. On held-out rows of the Bible:

| step | held-out loss | perplexity |
| ---: | ---: | ---: |
${metrics
  .filter(({ type }) => type === "evaluation")
  .map(row)
  .join("\n")}

## Samples

Temperature ${TEMPERATURE}, seed ${SAMPLE_SEED}, at most 96 tokens; the arrow marks where the prompt ends.

${PROMPTS.map(show).join("\n")}
## Limits

The text is four centuries old in one part and a satire of 1911 in the other. Do not ask it for advice.
`;
}
