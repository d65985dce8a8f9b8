import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, statSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { openDevice } from "../../../src/device.ts";
import { createDecoder, type Decoder, type Decoders } from "../../../src/generate/open-decoder.ts";
import { GREEDY } from "../../../src/generate/sampler.ts";
import { openModel } from "../../../src/load/open-model.ts";
import { createHost, type Host, type HostOptions } from "../../../src/serve/hosts/host.ts";
import { createPool } from "../../../src/serve/hosts/pool.ts";
import { createRounds } from "../../../src/serve/hosts/rounds.ts";
import { createSlots } from "../../../src/serve/hosts/slots.ts";
import { createVariants } from "../../../src/serve/hosts/variants.ts";
import { createWasmExecutor, type WasmExecutor } from "../../../src/wasm/executor.ts";
import { temporaryFolder } from "../../hf/temp.ts";
import { writeRandomAdapter } from "../../support/adapters.ts";
import { writeBase } from "../../support/box.ts";
import { copyFolder, writeTinyModel } from "../../support/cli.ts";
import { SLOW } from "../../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
let model: string;
let executor: WasmExecutor;
const hosts: Host[] = [];

/** Adapters on one base model. */
const MANY = SLOW ? 64 : 12;

/** Adapters of every sort: what they share with the base model differs. */
const SORTS = {
  few: { rank: 3, targets: ["q_proj", "v_proj"] },
  many: { rank: 16 },
  dora: { method: "dora", rank: 4, rankPattern: { q_proj: 2 } },
  head: { rank: 2, targets: ["q_proj"], modulesToSave: ["lm_head"] },
  tables: { rank: 2, targets: ["q_proj", "embed_tokens"] },
} as const;

beforeAll(async () => {
  model = writeBase(folder);
  executor = await createWasmExecutor({ threads: 1 });
  mkdirSync(join(folder, "adapters"));
  for (const [i, [name, settings]] of Object.entries(SORTS).entries())
    writeRandomAdapter(executor, model, join(folder, "adapters", name), settings, i);
});
afterAll(() => {
  hosts.forEach((host) => host.close());
  executor.close();
});

const adapter = (name: string) => join(folder, "adapters", name);

async function open(options: Partial<HostOptions> = {}, path = model): Promise<Host> {
  const host = createHost({
    name: "base",
    model: await openModel({ model: path }),
    storage: {},
    maxTokens: 64,
    conversations: 2,
    adapters: 64,
    sampling: { ...GREEDY, maxNewTokens: 8 },
    openDevice: () => openDevice({ device: "wasm", threads: 1, matmul: "wasm" }),
    ...options,
  });
  hosts.push(host);
  return host;
}

const logitsOf = async (host: Host, name: string | null, ids: readonly number[]): Promise<Float32Array> => {
  const { model } = host.named("x", name === null ? null : adapter(name));
  const { decoder, leave } = await model.seatFor(ids);
  decoder.startAnew(ids);
  const logits = decoder.feed(ids);
  leave();
  return logits;
};

const alone = async (name: string | null, ids: readonly number[]): Promise<Float32Array> => (await decoderOf(name)).feed(ids);

/** A decoder of a model of its own. */
async function decoderOf(name: string | null): Promise<Decoder> {
  const opened = await openModel({ model, ...(name === null ? {} : { adapter: adapter(name) }) });
  const { config, source } = opened;
  const decoder = createDecoder(executor, { config, source, adapter: opened.adapter, maxTokens: 64 });
  opened.close();
  return decoder;
}

describe("a base model with adapters", () => {
  const prompt = Array.from({ length: 20 }, (_, i) => 7 + 13 * i);

  test("answers with each as if it were alone, to the bit, in any order", async () => {
    const host = await open();
    const names = [null, ...(Object.keys(SORTS) as (keyof typeof SORTS)[])];
    const expected = new Map<string | null, Float32Array>();
    for (const name of names) expected.set(name, await alone(name, prompt));
    // Each changes what is said, or the test would say nothing.
    expect(new Set([...expected.values()].map((logits) => logits.join())).size).toBe(names.length);
    for (const name of [...names, ...names.toReversed(), "many", "few", null, "many"])
      expect([name, await logitsOf(host, name, prompt)]).toEqual([name, expected.get(name)!]);
    expect(host.adapters).toBe(5);
  });

  test("answers the same to the bit when its weights stay in their files, alone, with adapters and in company, with less memory", async () => {
    const wide = join(folder, "streamed");
    mkdirSync(join(folder, "wide-adapters"), { recursive: true });
    mkdirSync(wide);
    writeTinyModel(wide, { hidden_size: 256, intermediate_size: 512, max_position_embeddings: 64 });
    for (const [i, [name, settings]] of Object.entries(SORTS).entries())
      writeRandomAdapter(executor, wide, join(folder, "wide-adapters", name), settings, i);
    const path = (name: string) => join(folder, "wide-adapters", name);
    const answers = async (host: Host) => {
      const found: Float32Array[] = [];
      for (const name of [null, ...Object.keys(SORTS), "few", null]) {
        const { model } = host.named("x", name === null ? null : path(name));
        const { decoder, leave } = await model.seatFor(prompt);
        decoder.startAnew(prompt);
        found.push(decoder.feed(prompt));
        leave();
      }
      // Two answers at a time, token by token.
      const seats = await Promise.all(
        [null, "many"].map((name) => host.named("x", name === null ? null : path(name)).model.seatFor(prompt)),
      );
      for (const { decoder } of seats) decoder.feed(prompt);
      found.push(...(await Promise.all(seats.map(({ next }) => next!([...prompt, 5])))));
      seats.forEach(({ leave }) => leave());
      return found;
    };
    const stored = { cache: false };
    const [resident, streamed] = [await open({}, wide), await open({ isStreamed: true, stored }, wide)];
    const promised = streamed.bytes();
    expect(promised).toBeLessThan(resident.bytes());
    expect(await answers(streamed)).toEqual(await answers(resident));
    expect(streamed.bytes()).toBeLessThan(resident.bytes());
    streamed.unload(0);
    expect(streamed.isLoaded).toBe(false);
    expect(await answers(streamed)).toEqual(await answers(resident));
  });

  test("keeps texts in the caches that all share, and forgets those of other models that it overwrites", async () => {
    const host = await open();
    const ids = async (name: string | null, text: readonly number[]) => {
      const { model } = host.named("x", name === null ? null : adapter(name));
      const { decoder, leave } = await model.seatFor(text);
      leave();
      return [...decoder.ids];
    };
    await logitsOf(host, null, prompt);
    await logitsOf(host, "few", prompt);
    // Both texts are there.
    expect(await ids(null, [...prompt, 3])).toEqual(prompt);
    expect(await ids("few", [...prompt, 3])).toEqual(prompt);
    // The one that was used longest ago goes.
    await logitsOf(host, "many", prompt);
    expect(await ids("few", [...prompt, 3])).toEqual(prompt);
    expect(await ids(null, [...prompt, 3])).toEqual([]);
    expect(await logitsOf(host, null, prompt)).toEqual(await alone(null, prompt));
  });

  test("makes answers side by side, those of one model in one round, to the bit of those made alone, whoever comes and goes", async () => {
    const host = await open({ conversations: 5 });
    const texts: readonly (readonly [name: string | null, start: number, length: number, tokens: number])[] = [
      [null, 3, 20, 12],
      [null, 40, 5, 6],
      ["few", 3, 20, 9],
      [null, 90, 33, 12],
      ["many", 11, 17, 12],
    ];
    const textOf = (start: number, length: number) => Array.from({ length }, (_, i) => (start + 17 * i) % 2000);
    /** The logits behind a prompt and behind each token that follows. */
    const follow = async (feed: (ids: readonly number[]) => Promise<Float32Array>, ids: number[], tokens: number) => {
      const all: Float32Array[] = [];
      for (let i = 0; i < tokens; i++) {
        all.push(await feed(ids));
        ids.push((31 * ids.length) % 2000);
        await new Promise((resolve) => setImmediate(resolve));
      }
      return all;
    };
    const together = await Promise.all(
      texts.map(async ([name, start, length, tokens], i) => {
        // Some come later.
        for (let wait = 0; wait < 2 * i; wait++) await new Promise((resolve) => setImmediate(resolve));
        const ids = textOf(start, length);
        const { decoder, next, leave } = await host.named("x", name === null ? null : adapter(name)).model.seatFor(ids);
        decoder.startAnew(ids);
        let isFirst = true;
        const all = await follow(
          async (text) => {
            if (!isFirst) return next!(text);
            isFirst = false;
            return decoder.feed(text);
          },
          ids,
          tokens,
        );
        leave();
        return all;
      }),
    );
    for (const [i, [name, start, length, tokens]] of texts.entries()) {
      const opened = await openModel({ model, ...(name === null ? {} : { adapter: adapter(name) }) });
      const { config, source } = opened;
      const decoder = createDecoder(executor, { config, source, adapter: opened.adapter, maxTokens: 64 });
      expect([i, await follow(async (ids) => decoder.feed(ids), textOf(start, length), tokens)]).toEqual([i, together[i]!]);
      opened.close();
    }
  });

  test("decodes texts of the base and of several adapters in one pass, what cannot be mixed beside it", async () => {
    const opened = { ...(await openModel({ model })), dtype: undefined, quantize: undefined };
    const slots = createSlots(6);
    const own = await createWasmExecutor({ threads: 1 });
    const variants = createVariants(own, { model: opened, maxTokens: 64, slots, texts: 6, most: 64, hasRoom: () => true });
    const names = ["few", null, "dora", "many", "few", "rs"] as const;
    writeRandomAdapter(executor, model, adapter("rs"), { rank: 5, rslora: true, targets: ["o_proj", "down_proj"] }, 9);
    const others = await Promise.all(names.map(decoderOf));
    const texts = names.map((name, i) => {
      const variant = variants.enter(name === null ? null : adapter(name));
      const ids = [...prompt.slice(0, 3 + i), 100 + i];
      const { index, decoder } = slots.enter(variant, variant.decoders.each, ids);
      decoder.startAnew(ids);
      expect(decoder.feed(ids)).toEqual(others[i]!.feed(ids));
      return { name, variant, index, ids };
    });
    for (let token = 0; token < 3; token++) {
      const next = texts.map(({ ids }, i) => [...ids, (7 * i + 31 * token) % 500]);
      texts.forEach((text, i) => Object.assign(text, { ids: next[i] }));
      const groups = variants.groups(new Map(texts.map(({ index, variant, ids }) => [index, { model: variant, ids }])));
      expect(groups.map(({ texts: { size } }) => size)).toEqual([5, 1]);
      const logits = new Map(groups.flatMap(({ feed }) => [...feed()]));
      texts.forEach(({ name, index, ids }, i) => expect([name, logits.get(index)!]).toEqual([name, others[i]!.feed(ids)]));
    }
    // A text alone, or texts of one model alone, go by their own program; half of the caches do not pay.
    const few = texts
      .filter(({ name }) => name === "few")
      .map(({ index, variant, ids }) => [index, { model: variant, ids: [...ids, 1] }] as const);
    expect(variants.groups(new Map(few))).toHaveLength(1);
    const half = texts.slice(0, 3).map(({ index, variant, ids }) => [index, { model: variant, ids: [...ids, 1] }] as const);
    expect(variants.groups(new Map(half))).toHaveLength(3);
    own.close();
    opened.close();
  });

  test("has so many adapters in memory and no more, and uses their memory again", async () => {
    const host = await open({ adapters: 2 });
    const last = { bytes: 0 };
    for (let round = 0; round < 4; round++) {
      for (const name of ["few", "many", "dora"]) expect(await logitsOf(host, name, prompt)).toEqual(await alone(name, prompt));
      expect(host.adapters).toBe(2);
      if (round === 1) last.bytes = host.bytes();
    }
    // The computation of DoRA's lengths takes a little each time.
    expect(host.bytes() - last.bytes).toBeLessThan(64 << 10);
    host.drop(adapter("few"));
    host.drop(adapter("many"));
    host.drop(adapter("dora"));
    expect(host.adapters).toBe(0);
  });

  test("takes no more memory than there is for adapters: the one that was used longest ago goes, or the request waits", async () => {
    let room = true;
    const host = await open({ hasRoom: () => room });
    await logitsOf(host, "few", prompt);
    await logitsOf(host, "many", prompt);
    room = false;
    const before = host.bytes();
    expect(await logitsOf(host, "few", prompt)).toEqual(await alone("few", prompt));
    // What the others give back is enough for one of another shape.
    expect(await logitsOf(host, "dora", prompt)).toEqual(await alone("dora", prompt));
    expect(host.adapters).toBeLessThanOrEqual(2);
    expect(host.bytes() - before).toBeLessThan(64 << 10);
    const full = await open({ hasRoom: () => false });
    expect(await logitsOf(full, "few", prompt).catch((error: unknown) => error)).toMatchObject({
      status: 503,
      code: "no_memory",
    });
    expect(await logitsOf(full, null, prompt)).toEqual(await alone(null, prompt));
  });

  test("waits until others have made room: before it is loaded, and for each adapter that is not there; refuses where they do not", async () => {
    const asked: number[] = [];
    let gives: boolean | null = null;
    const waiting: (() => void)[] = [];
    const host = await open({
      async makeRoom(bytes) {
        asked.push(bytes);
        if (gives === null) await new Promise<void>((resolve) => waiting.push(resolve));
        return gives === false ? null : () => {};
      },
    });
    const first = logitsOf(host, null, prompt);
    await Bun.sleep(20);
    expect([asked, host.isLoading, host.isLoaded]).toEqual([[0], true, false]);
    gives = false;
    waiting.forEach((resolve) => resolve());
    expect(await first.catch((error: unknown) => error)).toMatchObject({ status: 503, code: "no_memory" });
    expect([host.isLoading, host.isLoaded]).toEqual([false, false]);
    gives = true;
    expect(await logitsOf(host, null, prompt)).toEqual(await alone(null, prompt));
    await logitsOf(host, "few", prompt);
    await logitsOf(host, "few", prompt);
    const { size } = statSync(join(adapter("few"), "adapter_model.safetensors"));
    expect(asked).toEqual([0, 0, 2 * size]);
  });

  test("leaves memory when nothing is asked of it, but under no answer, and answers the same when it is back", async () => {
    const host = await open();
    const expected = await logitsOf(host, "few", prompt);
    const { model: answering } = host.named("few", adapter("few"));
    const seat = await answering.seatFor([...prompt]);
    host.unload(0);
    expect(host.isLoaded).toBe(true);
    seat.leave();
    host.unload(60_000);
    expect(host.isLoaded).toBe(true);
    const bytes = host.bytes();
    host.unload(0);
    expect([host.isLoaded, host.adapters]).toEqual([false, 0]);
    expect(await logitsOf(host, "few", prompt)).toEqual(expected);
    expect(Math.abs(host.bytes() - bytes)).toBeLessThan(1 << 20);
  });

  test("reads an adapter again that has changed, and refuses one that is gone or is of another model", async () => {
    const host = await open();
    const copy = writeRandomAdapter(executor, model, join(folder, "adapters/changing"), SORTS.few, 50);
    const before = await logitsOf(host, "changing", prompt);
    writeRandomAdapter(executor, model, copy, SORTS.few, 51);
    utimesSync(join(copy, "adapter_model.safetensors"), 1, 1);
    const after = await logitsOf(host, "changing", prompt);
    expect(after).not.toEqual(before);
    expect(after).toEqual(await alone("changing", prompt));
    const gone = logitsOf(host, "none", prompt);
    expect(await gone.catch((error: unknown) => error)).toMatchObject({ status: 404, code: "model_not_found" });
    const wide = join(folder, "wide");
    mkdirSync(wide);
    const other = await open({}, writeTinyModel(wide, { hidden_size: 32, num_hidden_layers: 2 }));
    const wrong = logitsOf(other, "few", prompt);
    expect(await wrong.catch((error: unknown) => error)).toMatchObject({ status: 400, param: "model" });
  });

  test(`has ${MANY} adapters of rank 16 for their own bytes and 5 %`, async () => {
    const host = await open();
    const { rank } = SORTS.many;
    const first = writeRandomAdapter(executor, model, join(folder, "adapters/a0"), { rank }, 100);
    await logitsOf(host, null, prompt);
    await logitsOf(host, "a0", prompt);
    const before = host.bytes();
    const all = Array.from({ length: MANY }, (_, i) => `a${i}`);
    for (const name of all.slice(1)) copyFolder(first, join(folder, "adapters", name));
    for (const name of all) await logitsOf(host, name, prompt);
    expect(host.adapters).toBe(MANY);
    const own = statSync(join(first, "adapter_model.safetensors")).size;
    expect((host.bytes() - before) / (MANY - 1)).toBeLessThan(1.05 * own);
    expect(await logitsOf(host, "a9", prompt)).toEqual(await alone("a9", prompt));
  });
});

test("a round has all texts of a model at once, and those of others behind them", async () => {
  const calls: string[] = [];
  const decodersOf = (name: string) =>
    ({
      feed(texts: ReadonlyMap<number, readonly number[]>) {
        calls.push(`${name} ${[...texts.keys()].join()}`);
        if (name === "bad") throw new Error("broken");
        return new Map([...texts].map(([index, ids]) => [index, Float32Array.of(ids.length)]));
      },
    }) as unknown as Decoders;
  const [a, b, bad] = [decodersOf("a"), decodersOf("b"), decodersOf("bad")];
  const rounds = createRounds<Decoders>((texts) =>
    [...Map.groupBy(texts, ([, { model: decoders }]) => decoders)].map(([decoders, own]) => ({
      texts: new Map(own),
      feed: () => decoders.feed(new Map(own.map(([text, { ids }]) => [text, ids]))),
    })),
  );
  const broken = rounds.next(bad, 2, [1]).catch((error: Error) => error.message);
  const made = await Promise.all([rounds.next(a, 0, [1]), rounds.next(b, 1, [1, 2]), rounds.next(a, 3, [1, 2, 3])]);
  expect(made.map((logits) => logits[0])).toEqual([1, 2, 3]);
  expect(await broken).toBe("broken");
  expect(calls).toEqual(["bad 2", "a 0,3", "b 1"]);
});

test("memory that was given back is used again by what is of its size", async () => {
  const own = await createWasmExecutor({ threads: 1 });
  const pool = createPool(own);
  const [large, small] = [pool.take(64 << 20), pool.take(1 << 12)];
  pool.give(large);
  pool.give(small);
  expect(pool.take(1 << 12)).toBe(small);
  // A large piece is not given for something small.
  expect(pool.take(4 << 20)).not.toBe(large);
  expect(pool.take(60 << 20)).toBe(large);
  expect(pool.taken).toBe((64 << 20) + (1 << 12) + (4 << 20));
  own.close();
});
