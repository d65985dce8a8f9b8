/**
 * Tokens per second of eight conversations over one base model: all with the base alone, all with one adapter, over four adapters, and one
 * conversation by itself. Adapters of rank 16 on all linear layers; SmolLM2-135M's shape with random weights in bf16.
 *
 *     bun bench/adapters.ts [threads] [rounds]
 *
 * The ways take turns, so that what else the machine does touches all of them; medians of the rounds. Exit code 1 when a ratio is too low.
 */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openModel } from "../src/load/open-model.ts";
import { createSlots } from "../src/serve/hosts/slots.ts";
import { createVariants } from "../src/serve/hosts/variants.ts";
import { createWasmExecutor } from "../src/wasm/executor.ts";
import { writeRandomAdapter } from "../test/support/adapters.ts";
import { writeTinyModel } from "../test/support/cli.ts";
import { median } from "./report.ts";
import { SHAPES } from "./shapes.ts";

const [threads = 2, rounds = 9] = process.argv.slice(2).map(Number);
const TEXTS = 8;
const PROMPT = 16;
/** Tokens that each way makes in a round. */
const TOKENS = 12;

const folder = mkdtempSync(join(tmpdir(), "remat-adapters-"));
try {
  mkdirSync(join(folder, "model"));
  const model = writeTinyModel(join(folder, "model"), SHAPES["smollm2-135m"]);
  const making = await createWasmExecutor({ threads });
  const names = ["a", "b", "c", "d"];
  names.forEach((name, i) => writeRandomAdapter(making, model, join(folder, name), { rank: 16 }, i));
  making.close();

  const executor = await createWasmExecutor({ threads });
  const slots = createSlots(TEXTS);
  const opened = { ...(await openModel({ model })), dtype: "bf16" as const, quantize: undefined };
  const sizes = { maxTokens: PROMPT + TOKENS * (rounds + 1), texts: TEXTS, most: 8 };
  const variants = createVariants(executor, { model: opened, slots, hasRoom: () => true, ...sizes });

  /** Conversations, a folder or null each; returns what makes `TOKENS` tokens of each, and the tokens a second. */
  const way = (adapters: readonly (string | null)[]) => () => {
    const texts = adapters.map((name, i) => {
      const variant = variants.enter(name === null ? null : join(folder, name));
      const ids = Array.from({ length: PROMPT }, (_, at) => (37 * at + 101 * i) % 49_000);
      const slot = slots.enter(variant, variant.decoders.each, ids);
      slot.decoder.feed(ids);
      return { variant, slot, ids };
    });
    const begin = performance.now();
    for (let token = 0; token < TOKENS; token++) {
      for (const { ids } of texts) ids.push((ids.at(-1)! * 31 + 7) % 49_000);
      const round = new Map(texts.map(({ variant, slot, ids }) => [slot.index, { model: variant, ids }]));
      for (const { feed } of variants.groups(round)) feed();
    }
    const seconds = (performance.now() - begin) / 1000;
    for (const { variant, slot } of texts) {
      slot.leave();
      variants.leave(variant);
    }
    return (TOKENS * texts.length) / seconds;
  };
  const eight = <T>(of: (i: number) => T) => Array.from({ length: TEXTS }, (_, i) => of(i));
  const ways = {
    "one conversation": way([null]),
    "one, with an adapter": way(["a"]),
    "eight of the base": way(eight(() => null)),
    "eight of one adapter": way(eight(() => "a")),
    "eight over four": way(eight((i) => names[i % 4]!)),
    "eight over three and the base": way(eight((i) => [null, "a", "b", "c"][i % 4]!)),
  };
  const rates = new Map(Object.keys(ways).map((name) => [name, [] as number[]]));
  for (let round = 0; round <= rounds; round++)
    for (const [name, run] of Object.entries(ways)) {
      const rate = run();
      // The first round warms up.
      if (round > 0) rates.get(name)!.push(rate);
    }
  for (const [name, all] of rates) {
    const sorted = all.toSorted((a, b) => a - b);
    console.log(
      `${name.padEnd(32)}${median(all).toFixed(1)} tokens/s (${sorted[0]!.toFixed(1)} to ${sorted.at(-1)!.toFixed(1)})`,
    );
  }
  const ratio = (a: keyof typeof ways, b: keyof typeof ways) => median(rates.get(a)!.map((rate, i) => rate / rates.get(b)![i]!));
  const checks = [
    ["four adapters over one", ratio("eight over four", "eight of one adapter"), 0.8],
    ["eight over one, of the base", ratio("eight of the base", "one conversation"), 2.5],
    ["eight over one, of an adapter", ratio("eight of one adapter", "one, with an adapter"), 2.5],
  ] as const;
  for (const [what, reached, wanted] of checks) {
    const isMet = reached >= wanted;
    console.log(`${what.padEnd(32)}${reached.toFixed(2)} ${isMet ? "ok" : "MISS"} (at least ${wanted})`);
    if (!isMet) process.exitCode = 1;
  }
  executor.close();
  opened.close();
} finally {
  rmSync(folder, { recursive: true, force: true });
}
