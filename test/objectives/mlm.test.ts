import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createBatches, type MicroBatch } from "../../src/data/samples/batch.ts";
import { maskingOf, withMasks } from "../../src/data/samples/masking.ts";
import { createSampleMaker } from "../../src/data/samples/sample-maker.ts";
import { createSampleStore } from "../../src/data/samples/sample-store.ts";
import { IGNORED } from "../../src/data/samples/sample.ts";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { evaluate } from "../../src/library/evaluate.ts";
import { train } from "../../src/library/train.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { refused, writeTinyModel } from "../support/cli.ts";
import { writeTinyBert } from "../support/encoders.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const encoder = writeTinyBert(join(folder, "bert"));
const words = ["king", "house", "water", "tree", "sword", "bread", "stone", "night"];
const data = join(folder, "texts.jsonl");
writeFileSync(
  data,
  Array.from({ length: 40 }, (_, i) => {
    const [a, b] = [words[i % 8]!, words[(3 * i + 1) % 8]!];
    return `${JSON.stringify({ text: `the ${a} and the ${b} of old` })}\n`;
  }).join(""),
);

const masking = { share: 0.15, seed: 3, maskId: 4, special: new Set([2, 3]), vocabulary: 1000 };

/** Many texts of 100 tokens between two special ones. */
function batchesOf(count: number, length = 100) {
  const store = createSampleStore(() => "");
  for (let i = 0; i < count; i++) {
    const ids = Int32Array.from({ length: length + 2 }, (_, t) => (t === 0 ? 2 : t === length + 1 ? 3 : 500 + (t % 400)));
    store.add({ ids, labels: ids.slice().fill(IGNORED), weights: null }, i + 1);
  }
  return createBatches(store.finish(), { rows: 4, rowLength: length + 2, packing: false, seed: 1, shuffle: true, padId: 0 });
}

test("of the hidden tokens, 15 % of all, eight in ten become the mask, one any other, one stays; special ones and padding are left", () => {
  const plain = batchesOf(400);
  const batches = withMasks(plain, masking);
  const counts = { all: 0, hidden: 0, mask: 0, other: 0, same: 0 };
  for (let index = 0; index < batches.count(0); index++) {
    const [before, after] = [plain.batch(0, index), batches.batch(0, index)];
    counts.all += before.used - 2 * before.examples;
    let labelled = 0;
    for (const [t, label] of after.labels.entries()) {
      if (label === IGNORED) {
        expect(after.ids[t]).toBe(before.ids[t]!);
        continue;
      }
      labelled++;
      expect(label).toBe(before.ids[t]!);
      expect(masking.special.has(label)).toBe(false);
      const id = after.ids[t]!;
      counts[id === masking.maskId ? "mask" : id === label ? "same" : "other"]++;
    }
    expect([after.labelled, after.weight]).toEqual([labelled, labelled]);
    counts.hidden += labelled;
  }
  expect(counts.hidden / counts.all).toBeCloseTo(0.15, 2);
  expect(counts.mask / counts.hidden).toBeCloseTo(0.8, 1);
  expect(Math.abs(counts.other / counts.hidden - 0.1)).toBeLessThan(0.02);
  expect(Math.abs(counts.same / counts.hidden - 0.1)).toBeLessThan(0.02);
});

test("an example's masks are those of seed, epoch and example, wherever it lies; every example has one", () => {
  const of = (batch: MicroBatch) =>
    new Map(
      batch.members.map((member, i) => {
        const { from, to } = batch.spans[i]![0]!;
        return [member, [[...batch.ids.subarray(from, to)], [...batch.labels.subarray(from, to)]].join("|")];
      }),
    );
  const all = (epoch: number, seed = 3) => {
    const batches = withMasks(batchesOf(24, 6), { ...masking, seed });
    return new Map(Array.from({ length: batches.count(epoch) }, (_, i) => [...of(batches.batch(epoch, i))]).flat());
  };
  const [first, again] = [all(0), all(0)];
  expect(again).toEqual(first);
  // The order of the second epoch is another one, and so are the masks.
  const second = all(1);
  expect([...second.keys()].sort()).toEqual([...first.keys()].sort());
  expect([...first].filter(([member, masks]) => second.get(member) === masks).length).toBeLessThan(12);
  expect(all(0, 4)).not.toEqual(first);
  for (const masks of first.values())
    expect(
      masks
        .split("|")[1]!
        .split(",")
        .some((label) => Number(label) >= 0),
    ).toBe(true);
});

test("texts of any length are cut into pieces, none is lost; with --truncate the first one counts", () => {
  const tokenizer = loadTokenizer(encoder);
  const text = "the king and the house and the water and the tree";
  const make = (truncate: boolean) => {
    const maker = createSampleMaker(tokenizer, { maxLength: 8, truncate, vocabSize: 800, surround: true });
    return maker.samples({ kind: "text", text, where: "d:1" });
  };
  const pieces = make(false);
  expect(pieces.length).toBeGreaterThan(1);
  expect(pieces.flatMap(({ ids }) => [...ids.subarray(1, -1)])).toEqual([...tokenizer.encode(text)]);
  for (const { ids } of pieces)
    expect([ids.length <= 8, ids[0], ids.at(-1)]).toEqual([true, pieces[0]!.ids[0]!, pieces[0]!.ids.at(-1)!]);
  expect(make(true)).toEqual([pieces[0]!]);
});

test("a full run learns the texts, and ends in a ...ForMaskedLM that measures as it did", async () => {
  const output = join(folder, "full");
  const common = { threads: 1, sequenceLength: 32, objective: "mlm" } as const;
  const run = { ...common, model: encoder, data, valid: data, output, method: "full", batchSize: 8, packing: false } as const;
  const before = await evaluate({ ...common, model: encoder, data });
  const { evaluation } = await train({ ...run, steps: 200, learningRate: 1e-2, warmup: 10, bestMetric: "accuracy" });
  expect(evaluation!.loss).toBeLessThan(before.loss - 1);
  expect(evaluation!.metrics["accuracy"]).toBeGreaterThan(0.3);
  expect(JSON.parse(readFileSync(join(output, "config.json"), "utf8"))).toMatchObject({ architectures: ["BertForMaskedLM"] });
  const after = await evaluate({ ...common, model: output, data });
  expect(after.loss).toBeLessThan(before.loss - 1);
  expect(after.tokens).toBe(before.tokens);

  const flags = ["--objective", "mlm", "--data", data, "--output", join(folder, "none"), "--model"];
  const tiny = writeTinyModel(join(folder, "tiny"), {
    num_hidden_layers: 2,
    hidden_size: 16,
    head_dim: 4,
    intermediate_size: 24,
  });
  expect(await refused("train", ...flags, tiny)).toContain("sees nothing of what follows a token");
  expect(await refused("eval", ...flags.slice(0, 4), "--model", tiny)).toContain("sees nothing of what follows a token");
  const labelled = join(folder, "labelled.jsonl");
  writeFileSync(labelled, '{"text": "a", "label": "b"}\n');
  expect(await refused("train", ...flags, encoder, "--data", labelled)).toContain("that is for --objective classify");
  expect(await refused("train", ...flags, encoder, "--rerank-loss", "softmax")).toContain("is a setting of --objective rerank");
  expect(() => maskingOf({ ...loadTokenizer(encoder), namedTokens: {} }, { share: 0.1, seed: 0, vocabSize: 9 })).toThrow(
    "no mask_token",
  );
  expect(existsSync(join(folder, "none"))).toBe(false);
});
