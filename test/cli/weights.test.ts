import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../hf/temp.ts";
import { remat, writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const model = writeTinyModel(join(folder, "model"), {
  num_hidden_layers: 2,
  hidden_size: 16,
  head_dim: 4,
  intermediate_size: 16,
});

function write(name: string, weights: readonly (number | undefined)[]): string {
  const path = join(folder, name, "train.jsonl");
  const words = ["king", "house of cards and of bricks", "water"];
  const lines = words.map((word, i) =>
    JSON.stringify({
      messages: [
        { role: "user", content: "Define it." },
        { role: "assistant", content: `A thing called ${word}.`, weight: weights[i] },
      ],
    }),
  );
  // A weight of undefined is not written, an example of weight 0 neither.
  const kept = lines.filter((_, i) => weights[i] !== 0);
  mkdirSync(join(folder, name));
  writeFileSync(path, `${kept.join("\n")}\n`);
  return path;
}

const common = ["--model", model, "--sequence-length", "128", "--threads", "1"];

async function evaluate(data: string): Promise<{ loss: number; accuracy: number; tokens: number }> {
  const { code, stdout, stderr } = await remat(["eval", ...common, "--data", data, "--json"]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return JSON.parse(stdout) as { loss: number; accuracy: number; tokens: number };
}

async function losses(data: string, ...flags: string[]): Promise<number[]> {
  const output = join(folder, `run-${Bun.hash(data + flags.join())}`);
  const args = ["train", ...common, "--data", data, "--valid", data, "--output", output, "--steps", "2", "--no-sample", ...flags];
  expect(await remat(args)).toMatchObject({ code: 0 });
  const lines = readFileSync(join(output, "metrics.jsonl"), "utf8").trim().split("\n");
  return lines.map((line) => (JSON.parse(line) as { loss: number }).loss);
}

test("the loss of weighted messages is sum w nll / sum w, in eval as in training, within a relative 1e-5", async () => {
  const alone = await Promise.all([0, 1, 2].map((i) => evaluate(write(`alone-${i}`, [0, 0, 0].with(i, 1)))));
  const weights = [0.25, 1, 2.5];
  const sum = (of: (i: number) => number) => weights.reduce((total, _, i) => total + of(i), 0);
  const mean = sum((i) => weights[i]! * alone[i]!.loss * alone[i]!.tokens) / sum((i) => weights[i]! * alone[i]!.tokens);
  const plain = sum((i) => alone[i]!.loss * alone[i]!.tokens) / sum((i) => alone[i]!.tokens);
  expect(Math.abs(plain / mean - 1)).toBeGreaterThan(1e-3);
  const data = write("weighted", weights);
  expect(Math.abs((await evaluate(data)).loss / mean - 1)).toBeLessThan(1e-5);
  // Held-out loss before the first step, then the first step's own, of one micro-batch and of three accumulated ones.
  for (const flags of [[], ["--no-packing", "--gradient-accumulation", "3"]]) {
    const [heldOut, first, second] = await losses(data, ...flags);
    expect(Math.abs(heldOut! / mean - 1)).toBeLessThan(1e-5);
    expect(Math.abs(first! / mean - 1)).toBeLessThan(1e-5);
    expect(second).not.toBe(first!);
  }
});

test("weights of 0 and 1 alone change no bit", async () => {
  const plain = await losses(write("plain", [undefined, undefined, undefined]));
  expect(await losses(write("ones", [1, 1, 1]))).toEqual(plain);
});
