import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createRandom } from "../../src/base/random.ts";
import { createBatches, type MicroBatch } from "../../src/data/samples/batch.ts";
import { createSampleStore } from "../../src/data/samples/sample-store.ts";
import { openTeacher } from "../../src/generate/teacher.ts";
import { train } from "../../src/library/train.ts";
import { openModel } from "../../src/load/open-model.ts";
import { distil } from "../../src/objectives/distil.ts";
import { logSoftmax } from "../../src/objectives/logistic.ts";
import type { OpenHead } from "../../src/objectives/objective.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { copyFolder, refused, writeTinyModel } from "../support/cli.ts";
import { writeRandomEncoder } from "../support/encoders.ts";
import { fullForward } from "../support/full-forward.ts";
import { expectWithin } from "../support/ops.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const tiny = { num_hidden_layers: 2, hidden_size: 16, head_dim: 4, intermediate_size: 24 };
const student = writeTinyModel(join(folder, "student"), tiny);
const teacher = writeTinyModel(join(folder, "teacher"), { ...tiny, hidden_size: 24, num_hidden_layers: 3, head_dim: 6 });
const words = ["king", "house", "water", "tree", "sword", "bread", "stone", "night"];
const data = join(folder, "texts.jsonl");
writeFileSync(
  data,
  words.map((word) => `${JSON.stringify({ prompt: `A ${word}?`, completion: ` the ${word} of old` })}\n`).join(""),
);

test.each([
  [1, 1],
  // At another temperature the token's own label has a row of its own, whose other two places have no label.
  [1.7, 3],
])(
  "derivatives at temperature %d are those of finite differences in float64, with weights of tokens and one token without a label",
  (temperature, others) => {
    const settings = { teacher: "-", teacherTop: 3, distilTemperature: temperature, distilShare: 0.6 };
    const head = distil.create(settings) as OpenHead;
    const random = createRandom(1, "distil");
    const labels = Int32Array.of(4, -100, 5, 6);
    const share = (count: number) => Array.from({ length: count }, () => 0.05 + 0.2 * random.uniform());
    const batch = {
      labels,
      weights: Float32Array.of(1, 1, 2.5, 0.5),
      weight: 4,
      teacher: { top: 3, ids: new Int32Array(12), logProbabilities: Float32Array.from(share(12), Math.log) },
    } as unknown as MicroBatch;
    const places = others + 3;
    expect(head.slots).toEqual({ count: 4, scale: 1 / temperature });
    // A place without a label has a loss of 0.
    const values = Float32Array.from(share(4 * places), (q, i) => (i % places > 0 && i % places < others ? 0 : -Math.log(q)));
    const lossOf = (at: Float32Array) => head.values(head.judge(batch, at).sums).loss * head.share(batch);
    const { weights } = head.judge(batch, values);
    for (let i = 0; i < values.length; i++) {
      const [up, down] = [1, -1].map((sign) => lossOf(values.map((value, k) => (k === i ? value + sign / 4096 : value))));
      expect(weights[i]!).toBeCloseTo((up! - down!) * 2048, 3);
    }
    expect([...weights.subarray(places, 2 * places)]).toEqual(Array<number>(places).fill(0));
    for (let i = 0; i < values.length; i++) if (i % places > 0 && i % places < others) expect(weights[i]).toBe(0);
    // A student that says what the teacher says has nothing to learn from it.
    const same = Float32Array.from({ length: 4 * places }, (_, i) => {
      const [token, place] = [Math.floor(i / places), i % places];
      return place < others ? 1 : -batch.teacher!.logProbabilities[3 * token + place - others]!;
    });
    expect(head.values(head.judge(batch, same).sums).metrics["teacher_kl"]!).toBeCloseTo(0, 6);
    expect([
      ...head.labels({ ...batch, teacher: { ...batch.teacher!, ids: Int32Array.from({ length: 12 }, (_, i) => i) } }),
    ]).toEqual(
      [4, -100, 5, 6].flatMap((label, t) => [label, ...Array<number>(others - 1).fill(-100), 3 * t, 3 * t + 1, 3 * t + 2]),
    );
  },
);

test("a teacher's likeliest tokens are those of its logits at the temperature, over the whole vocabulary, of texts packed into a row", async () => {
  const model = await openModel({ model: teacher });
  const { vocabSize } = model.config;
  const random = createRandom(2, "texts");
  const texts = [9, 5].map((length) => Int32Array.from({ length }, () => random.below(vocabSize)));
  const store = createSampleStore(() => "");
  for (const [i, ids] of texts.entries()) store.add({ ids, labels: ids.slice().fill(-100, 0, 3), weights: null }, i + 1);
  const batches = createBatches(store.finish(), { rows: 1, rowLength: 16, packing: true, seed: 0, padId: 0, shuffle: false });
  const batch = batches.batch(0, 0);
  const vocabulary = vocabSize - 7;
  const options = { model, tokens: 16, top: 4, temperature: 2, vocabulary };
  const executor = await createWasmExecutor({ threads: 1 });
  const asked = await openTeacher(executor, options);
  const { ids, logProbabilities } = asked.top(batch);
  asked.close();
  executor.close();
  expect(ids.length).toBe(4 * batch.labelled);
  const reference = await createWasmExecutor({ threads: 1 });
  const { logits } = fullForward(reference, model.config, model.source, { method: "full" }, 16);
  let at = 0;
  for (const member of batch.members) {
    const text = [...texts[member]!];
    for (let t = 3; t < text.length; t++) {
      const logp = logSoftmax(Array.from(logits(text.slice(0, t)), (z) => z / 2));
      const best = [...logp.keys()].filter((id) => id < vocabulary).sort((a, b) => logp[b]! - logp[a]! || a - b);
      expect([...ids.subarray(at, at + 4)]).toEqual(best.slice(0, 4));
      for (let i = 0; i < 4; i++) expectWithin("log-probability", Math.abs(logProbabilities[at + i]! - logp[best[i]!]!), 1e-5);
      at += 4;
    }
  }
  expect(at).toBe(ids.length);
  reference.close();
  model.close();
});

test("a student comes to say what its teacher says, which is asked once, and continues bit for bit", async () => {
  const cache = process.env["REMAT_CACHE"];
  process.env["REMAT_CACHE"] = join(folder, "cache");
  try {
    const run = {
      model: student,
      teacher,
      objective: "distil",
      distilShare: 1,
      teacherTop: 4,
      data,
      valid: data,
      method: "full",
      threads: 1,
      sequenceLength: 32,
      learningRate: 1e-2,
      warmup: 0,
      sample: false,
      bestMetric: "teacher_kl",
    } as const;
    const { evaluation } = await train({ ...run, output: join(folder, "run"), steps: 40 });
    const first = await train({ ...run, output: join(folder, "short"), steps: 2 });
    expect(evaluation!.metrics["teacher_kl"]).toBeLessThan(first.evaluation!.metrics["teacher_kl"]! / 3);
    expect(evaluation!.metrics["perplexity"]).toBeGreaterThan(1);
    expect(readdirSync(join(folder, "cache/teachers")).length).toBe(1);
    // What was kept gives the same run as what is asked anew.
    process.env["REMAT_CACHE"] = join(folder, "other");
    await train({ ...run, output: join(folder, "again"), steps: 2 });
    const weights = (name: string) => readFileSync(join(folder, name, "model.safetensors"));
    expect(weights("again").equals(weights("short"))).toBe(true);
  } finally {
    if (cache === undefined) delete process.env["REMAT_CACHE"];
    else process.env["REMAT_CACHE"] = cache;
  }
});

test("what cannot be learned from is refused", async () => {
  const flags = ["train", "--model", student, "--objective", "distil", "--data", data, "--output", join(folder, "none")];
  expect(await refused(...flags)).toContain("that is for --teacher, with the folder or hub name");
  const other = copyFolder(teacher, join(folder, "other-tokens"));
  const path = join(other, "tokenizer.json");
  const json = JSON.parse(readFileSync(path, "utf8")) as { model: { vocab: Record<string, number> } };
  const { vocab } = json.model;
  const [a, b] = Object.keys(vocab).slice(-2) as [string, string];
  [vocab[a], vocab[b]] = [vocab[b]!, vocab[a]!];
  writeFileSync(path, JSON.stringify(json));
  expect(await refused(...flags, "--teacher", other)).toContain("its tokenizer has other tokens than the student's");
  const config = {
    architectures: ["BertForMaskedLM"],
    model_type: "bert",
    vocab_size: 800,
    hidden_size: 16,
    num_hidden_layers: 1,
  };
  const more = { num_attention_heads: 2, intermediate_size: 24, max_position_embeddings: 96, torch_dtype: "float32" };
  const encoder = writeRandomEncoder(join(folder, "bert"), { ...config, ...more }, "bert-uncased");
  expect(await refused(...flags, "--teacher", encoder)).toContain("predicts no next tokens");
  expect(await refused("eval", "--model", student, "--objective", "distil", "--data", data)).toContain("leave --objective away");
  expect(await refused(...flags.slice(0, 3), ...flags.slice(5), "--teacher", teacher)).toContain(
    "--teacher is a setting of --objective distil",
  );
  expect(existsSync(join(folder, "none"))).toBe(false);
});
