import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Device, openDevice } from "../../../src/device.ts";
import { GREEDY } from "../../../src/generate/sampler.ts";
import type { LoadedTexts } from "../../../src/generate/texts/open-texts.ts";
import { classify } from "../../../src/library/texts/classify.ts";
import { embed } from "../../../src/library/texts/embed.ts";
import { train } from "../../../src/library/train.ts";
import { openModel } from "../../../src/load/open-model.ts";
import { storageOf, type WeightStorage } from "../../../src/load/weights.ts";
import { judgementOf } from "../../../src/objectives/judgement.ts";
import { createHost } from "../../../src/serve/hosts/host.ts";
import { createHostMemory } from "../../../src/serve/hosts/host-memory.ts";
import { createTextModels, type TextModels, weightsOf } from "../../../src/serve/hosts/text-models.ts";
import { temporaryFolder } from "../../hf/temp.ts";
import { writeTinyModel } from "../../support/cli.ts";
import { SLOW } from "../../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const of = (name: string) => join(folder, name);
const sizes = { num_hidden_layers: 2, hidden_size: 128, head_dim: 32, num_attention_heads: 4, num_key_value_heads: 2 };
const model = writeTinyModel(of("model"), { ...sizes, intermediate_size: 384 });
const TEXTS = ["the king was fine", "the house was awful", "the tree was plain"];
const labels = ["good", "bad", "dull"];

beforeAll(async () => {
  const rows = TEXTS.map((text, i) => ({ text, label: labels[i], anchor: text, positive: `${text} of old` }));
  const write = (name: string, keys: readonly string[]) => {
    const picked = rows.map((row) => Object.fromEntries(Object.entries(row).filter(([key]) => keys.includes(key))));
    writeFileSync(of(name), picked.map((row) => `${JSON.stringify(row)}\n`).join(""));
    return of(name);
  };
  const common = { model, threads: 1, sequenceLength: 64, steps: 2, learningRate: 0.05, rank: 2, batchSize: 3 } as const;
  const judged = { ...common, data: write("judged.jsonl", ["text", "label"]), objective: "classify" } as const;
  const pairs = { ...common, data: write("pairs.jsonl", ["anchor", "positive"]), objective: "embed", packing: false } as const;
  await train({ ...judged, output: of("judge") });
  await train({ ...judged, output: of("picks"), optionTokens: true });
  await train({ ...pairs, output: of("embeds") });
  await train({ ...pairs, output: of("embeds-too"), seed: 2 });
});

/** The numbers that a model gives the texts. */
async function numbersOf(models: Pick<TextModels, "use">, name: string): Promise<number[][]> {
  return models.use(of(name), async (texts: LoadedTexts) => {
    if (texts.kind === "embeds") {
      const { maker } = texts.embedder;
      return (await texts.embedder.embed(TEXTS.map((text) => maker.alone(text, "text")))).map((each) => [...each]);
    }
    const { judge } = texts;
    const maker = judge.maker(false);
    const samples = TEXTS.map((text) => {
      const content = { kind: "text", text, where: "text" } as const;
      return maker.samples({ kind: "labelled", content, pair: null, label: "-", where: "text" })[0]!;
    });
    return (await judge.judge(samples)).map((given) => Object.values(judgementOf(judge.classifier, given).probabilities!));
  });
}

/** The same of the model by itself. */
async function aloneOf(name: string, storage: WeightStorage): Promise<number[][]> {
  const named = { adapter: of(name), model, texts: TEXTS, threads: 1, ...storage };
  if (name.startsWith("embeds")) {
    const { texts } = await embed({ ...named, normalize: true });
    return texts.map(({ embedding }) => [...embedding]);
  }
  const { texts } = await classify(named);
  return texts.map(({ probabilities }) => Object.values(probabilities!));
}

const STORED: readonly (readonly [string, WeightStorage])[] = [
  ["as they are stored", {}],
  ...(SLOW ? ([["quantised", { quantize: "q8", quantizeEmbedding: true }]] as const) : []),
];

describe("models that read whole texts on one base model", () => {
  test.each(STORED)(
    "adapters share the base's weights, %s: memory for one base, the same numbers, and what one had is used again",
    async (_, storage) => {
      const base = await openModel({ model }, { predicts: "anything" });
      const memory = createHostMemory(base, () => openDevice({ device: "wasm", threads: 1, matmul: "codes" }));
      const models = createTextModels({
        model: base,
        storage: storageOf(storage),
        maxTokens: 64,
        reading: {},
        most: 3,
        spare: 0,
        hasRoom: () => true,
        makeRoom: () => Promise.resolve(() => {}),
        memory,
      });
      const expectSame = async (name: string) => {
        const [found, alone] = [await numbersOf(models, name), await aloneOf(name, storage)];
        for (const [i, values] of alone.entries())
          values.forEach((value, k) => expect(Math.abs(found[i]![k]! - value)).toBeLessThan(1e-5));
      };
      try {
        expect(["judge", "picks", "embeds"].map((name) => models.kindOf(of(name)))).toEqual(["judges", "judges", "embeds"]);
        await expectSame("embeds");
        const one = memory.reserved;
        const weights = storage.quantize ? weightsOf(base) / 4 : weightsOf(base);
        expect(one).toBeGreaterThan(weights);
        await expectSame("embeds-too");
        // The second takes less than the first by the base\'s weights.
        expect(2 * one - memory.reserved).toBeGreaterThan(0.9 * weights);
        await expectSame("judge");
        await expectSame("embeds");
        expect(models.adapters).toBe(3);
        const three = memory.reserved;
        // The fourth takes the place of the one that was used longest ago.
        await expectSame("picks");
        expect(models.adapters).toBe(3);
        expect(memory.reserved - three).toBeLessThan(0.4 * weightsOf(base));
        await expectSame("embeds-too");
        await expectSame("judge");
        expect(memory.reserved - three).toBeLessThan(0.4 * weightsOf(base));
        models.unload(0);
        expect([memory.reserved, models.isLoaded]).toEqual([0, false]);
        await expectSame("picks");
      } finally {
        models.close();
        base.close();
      }
    },
  );
});

test("what answers on a base model and what reads whole texts on it have its weights once, whichever comes first: the same numbers to the bit, memory back at the end", async () => {
  const prompt = [5, 9, 2, 30];
  /** Asks a host for answers or for embeddings, in this order. */
  const ask = async (asked: readonly ("answers" | "embeds")[]) => {
    const devices: Device[] = [];
    const host = createHost({
      name: "base",
      model: await openModel({ model }),
      storage: {},
      maxTokens: 64,
      conversations: 1,
      adapters: 2,
      sampling: { ...GREEDY, maxNewTokens: 8 },
      async openDevice() {
        devices.push(await openDevice({ device: "wasm", threads: 1, matmul: "codes" }));
        return devices.at(-1)!;
      },
    });
    try {
      const found = { answers: [] as number[], embeds: [] as number[][] };
      for (const kind of asked) {
        if (kind === "embeds") found.embeds = await numbersOf(host.texts, "embeds");
        else {
          const { decoder, leave } = await host.named("x", null).model.seatFor(prompt);
          decoder.startAnew(prompt);
          found.answers = [...decoder.feed(prompt)];
          leave();
        }
      }
      const reserved = devices.reduce((sum, { executor }) => sum + executor.reserved, 0);
      expect(host.bytes()).toBeGreaterThan(reserved);
      host.unload(0);
      expect([host.isLoaded, devices.length]).toEqual([false, 1]);
      return { ...found, reserved };
    } finally {
      host.close();
    }
  };
  const [answers, embeds] = [await ask(["answers"]), await ask(["embeds"])];
  const base = await openModel({ model });
  const weights = weightsOf(base);
  base.close();
  for (const asked of [
    ["answers", "embeds"],
    ["embeds", "answers", "embeds"],
  ] as const) {
    const both = await ask(asked);
    expect(both.answers).toEqual(answers.answers);
    expect(both.embeds).toEqual(embeds.embeds);
    expect(answers.reserved + embeds.reserved - both.reserved).toBeGreaterThan(0.9 * weights);
  }
});
