import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { MicroBatch } from "../../src/data/samples/batch.ts";
import { classify } from "../../src/library/texts/classify.ts";
import { evaluate } from "../../src/library/evaluate.ts";
import { train } from "../../src/library/train.ts";
import type { LogitsHead } from "../../src/objectives/objective.ts";
import { reward } from "../../src/objectives/preferences/reward.ts";
import { createSampleMaker } from "../../src/data/samples/sample-maker.ts";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { parseExample } from "../../src/data/examples/formats.ts";
import { writeRandomEncoder } from "../support/encoders.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { refused, writeTinyModel } from "../support/cli.ts";
import { isZero, readTensors } from "../support/golden.ts";
import { EXECUTORS, runsOn, trainedJudge } from "../support/judged-runs.ts";
import { expectWithin, relativeError } from "../support/ops.ts";
import {
  folderOf,
  preferenceBatches,
  readTrlRuns,
  REWARD_ENCODER_RUNS,
  REWARD_RUNS,
  type RewardRun,
  smallPreferenceBatches,
} from "../support/preferences.ts";

setDefaultTimeout(120_000);

const readFixture = (file: string) =>
  JSON.parse(readFileSync(join(folderOf("reward"), file), "utf8")) as {
    readonly padId: number;
    readonly runs: ReturnType<typeof readTrlRuns<RewardRun>>;
  };
const { padId } = readFixture("reward.json");
const runs = [...readTrlRuns<RewardRun>("reward"), ...readFixture("encoders.json").runs];
const isEncoder = ({ model }: RewardRun) => REWARD_ENCODER_RUNS.some((run) => run.model === model);

test("the fixture is of these settings (test/golden/reward makes it anew); its micro-batches are orpo's", () => {
  expect(runs.map(({ settings }) => settings)).toEqual([...REWARD_RUNS, ...REWARD_ENCODER_RUNS]);
});

describe("a whole run with --objective reward is what TRL's RewardTrainer makes of it", () => {
  for (const on of Object.keys(EXECUTORS)) {
    test.each(runsOn(on, runs).map((run) => [on, run.settings.method, run.settings.model, run] as const))(
      "on %s: %s, %s: losses, metrics, gradient norms and the last weights within 1e-4",
      async (_, method, model, { settings, expected }) => {
        const tensors = readTensors(join(folderOf("reward"), `${model}.safetensors`));
        const objective = { objective: "reward", rewardCentring: settings.rewardCentring };
        // A decoder's head is one matrix.
        const head = [...tensors].filter(([name]) => name.startsWith("start"));
        const nameOf = (name: string) => (name === "start" ? "score.weight" : name.slice("start.".length));
        const start = Object.fromEntries(head.map(([name, values]) => [nameOf(name), values]));
        const batches = isEncoder(settings) ? smallPreferenceBatches() : preferenceBatches();
        const run = { run: settings, objective, batches, padId, start };
        const { steps, evaluation, weights } = await trainedJudge(run, await EXECUTORS[on]!(), { name: "per-segment" });
        const close = (what: string, got: number, wanted: number) =>
          expectWithin(`${what}: ${got}, ${wanted}`, Math.abs(got - wanted) / Math.max(1, Math.abs(wanted)), 1e-4);
        expect(steps.length).toBe(expected.steps.length);
        for (const [i, { gradientNorm, loss, ...metrics }] of expected.steps.entries()) {
          close(`loss of step ${i}`, steps[i]!.loss, loss!);
          close(`gradient norm of step ${i}`, steps[i]!.gradientNorm, gradientNorm!);
          for (const [metric, value] of Object.entries(metrics))
            close(`${metric} of step ${i}`, steps[i]!.metrics[metric]!, value);
        }
        const { loss, ...metrics } = expected.evaluation;
        close("held-out loss", evaluation.loss, loss!);
        for (const [metric, value] of Object.entries(metrics)) close(metric, evaluation.metrics[metric]!, value);
        for (const [name] of head) tensors.delete(name);
        expect(tensors.size).toBeGreaterThan(8);
        // Without centring, the last bias moves both scores alike, of which the loss sees nothing; Adam makes steps of rounding.
        const isIdle = (name: string) =>
          isZero(name) || (settings.rewardCentring === 0 && /classifier\.(out_proj\.)?bias$/.test(name));
        for (const [weight, values] of tensors)
          if (!isIdle(weight)) expectWithin(weight, relativeError(weights.get(weight)!, values), 1e-4);
        if (method === "lora") expect([...tensors.keys()].sort()).toEqual([...weights.keys()].sort());
      },
    );
  }
});

test("derivatives are those of finite differences in float64, also far away from 0", () => {
  const head = reward.create({ rewardCentring: 0.3 }) as LogitsHead;
  const batch = { examples: 3, spans: [[], [], []] as unknown } as MicroBatch;
  const scores = Float32Array.of(0.5, -0.25, 30, -30, -40, 40);
  const lossOf = (values: Float32Array) => head.values(head.judge(batch, values).sums).loss * head.share(batch);
  const { weights } = head.judge(batch, scores);
  for (let i = 0; i < scores.length; i++) {
    const [up, down] = [1, -1].map((sign) => lossOf(scores.map((value, k) => (k === i ? value + sign / 128 : value))));
    expect(weights[i]!).toBeCloseTo((up! - down!) * 64, 4);
  }
});

test("a run learns which of two answers is preferred; eval measures the model, classify gives texts their scores", async () => {
  const folder = temporaryFolder();
  const model = writeTinyModel(join(folder, "model"), {
    num_hidden_layers: 2,
    hidden_size: 16,
    head_dim: 4,
    intermediate_size: 24,
  });
  const words = ["king", "house", "water", "tree", "sword", "bread", "stone", "night"];
  const data = join(folder, "pairs.jsonl");
  const pairs = words.map((word) => ({ prompt: `Is the ${word} good?`, chosen: " yes, fine", rejected: " no, awful" }));
  writeFileSync(data, pairs.map((pair) => `${JSON.stringify(pair)}\n`).join(""));
  const common = { model, objective: "reward", threads: 1, sequenceLength: 64, rewardCentring: 0.01 } as const;
  const output = join(folder, "run");
  const { evaluation } = await train({
    ...common,
    data,
    valid: data,
    output,
    steps: 20,
    learningRate: 2e-2,
    warmup: 0,
    bestMetric: "rewards/margins",
  });
  expect(evaluation!.metrics["rewards/accuracies"]).toBe(1);
  const { model: _, ...measured } = common;
  const score = await evaluate({ ...measured, adapter: output, data });
  expect(score.metrics["rewards/margins"]).toBeCloseTo(evaluation!.metrics["rewards/margins"]!, 4);
  const { texts } = await classify({
    adapter: output,
    texts: pairs.flatMap(({ prompt, chosen, rejected }) => [chosen, rejected].map((completion) => ({ prompt, completion }))),
    threads: 1,
  });
  const margins = words.map((_word, i) => texts[2 * i]!.value! - texts[2 * i + 1]!.value!);
  expect(Math.min(...margins)).toBeGreaterThan(0);
  // The texts have the tokens that they have in training.
  expect(margins.reduce((sum, margin) => sum + margin, 0) / margins.length).toBeCloseTo(score.metrics["rewards/margins"]!, 4);
  expect(JSON.parse(readFileSync(join(output, "adapter_config.json"), "utf8"))).toMatchObject({
    task_type: "SEQ_CLS",
    modules_to_save: ["score"],
  });
  expect(await refused("eval", "--model", output, "--objective", "classify", "--data", data)).toContain(
    "the objective classify learns from",
  );
  expect(await refused("eval", "--model", output, "--objective", "dpo", "--data", data)).toContain("judges whole texts");
});

test("a text encoder learns it too, prompt and answer as its two texts, of which the answer alone is cut", async () => {
  const folder = temporaryFolder();
  const config = {
    architectures: ["BertForMaskedLM"],
    model_type: "bert",
    vocab_size: 800,
    hidden_size: 16,
    num_hidden_layers: 2,
  };
  const more = { num_attention_heads: 2, intermediate_size: 24, max_position_embeddings: 96, torch_dtype: "float32" };
  const model = writeRandomEncoder(join(folder, "bert"), { ...config, ...more }, "bert-uncased");
  const tokenizer = loadTokenizer(model);
  const maker = (maxLength: number) =>
    createSampleMaker(tokenizer, { maxLength, truncate: true, vocabSize: 800, surround: true });
  const pair = { prompt: "Is the king good?", chosen: "yes, fine", rejected: "no, awful and old" };
  const example = parseExample(JSON.stringify(pair), "d:1");
  const [chosen, rejected] = maker(64).samples(example);
  const { ids } = tokenizer.surround(tokenizer.encode(pair.prompt), tokenizer.encode(pair.chosen));
  expect([...chosen!.ids]).toEqual([...ids]);
  expect(chosen!.seconds).toEqual(rejected!.seconds);
  const cut = maker(rejected!.ids.length - 2).samples(example);
  expect(cut.map((each) => each.ids.length)).toEqual([
    Math.min(chosen!.ids.length, rejected!.ids.length - 2),
    rejected!.ids.length - 2,
  ]);
  expect(cut[1]!.seconds).toEqual(rejected!.seconds);

  const data = join(folder, "pairs.jsonl");
  const words = ["king", "house", "water", "tree", "sword", "bread", "stone", "night"];
  const lines = words.map((word) => ({ prompt: `Is the ${word} good?`, chosen: "yes, fine", rejected: "no, awful" }));
  writeFileSync(data, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  const output = join(folder, "run");
  const common = { objective: "reward", threads: 1, sequenceLength: 32 } as const;
  const run = { ...common, model, data, valid: data, output, method: "full", batchSize: 8, packing: false } as const;
  const { evaluation } = await train({ ...run, steps: 40, learningRate: 5e-3, warmup: 0 });
  expect(evaluation!.metrics["rewards/accuracies"]).toBe(1);
  const { texts } = await classify({
    model: output,
    texts: lines.flatMap(({ prompt, chosen: a, rejected: b }) => [a, b].map((completion) => ({ prompt, completion }))),
    threads: 1,
  });
  const margins = lines.map((_line, i) => texts[2 * i]!.value! - texts[2 * i + 1]!.value!);
  expect(margins.reduce((sum, margin) => sum + margin, 0) / 8).toBeCloseTo(evaluation!.metrics["rewards/margins"]!, 3);
  const chats = join(folder, "chats.jsonl");
  const turn = (content: string) => [
    { role: "user", content: "a" },
    { role: "assistant", content },
  ];
  writeFileSync(chats, `${JSON.stringify({ chosen: turn("b"), rejected: turn("c") })}\n`);
  expect(
    await refused("train", "--model", model, "--objective", "reward", "--data", chats, "--output", join(folder, "none")),
  ).toContain('give "prompt", "chosen" and "rejected" as texts');
});
