import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createRandom, type Random } from "../../src/base/random.ts";
import { writeTinyModel } from "../../test/support/cli.ts";

const MAIN = join(import.meta.dir, "../../src/cli/main.ts");
export const STEPS = 12;

export interface Ended {
  /** 128 with the signal's number where a signal ended the process. */
  readonly code: number;
  readonly stderr: string;
}

/** Work of a verb: what is given to it, and what it must leave behind whatever happened on the way. */
export interface Work {
  readonly name: string;
  args(output: string): string[];
  /** Starts again after an interruption: by `--resume`, or from nothing. */
  again(output: string): void;
  /** A text of everything that must be the same to the bit. */
  bits(output: string): string;
}

/** A tiny model with data, an adapter that was trained on them, and what each verb makes of these when nothing disturbs it. */
export interface World {
  readonly folder: string;
  readonly random: Random;
  readonly works: readonly Work[];
  /** By name of a work: its undisturbed bits, and how long it took in ms. */
  readonly baseline: ReadonlyMap<string, { readonly bits: string; readonly ms: number }>;
  start(args: readonly string[], cache?: string): Bun.Subprocess<"ignore", "ignore", "pipe">;
  run(args: readonly string[], cache?: string): Promise<Ended>;
  /** A path that nothing is at. */
  fresh(name: string): string;
}

export const hashFile = (path: string): string => new Bun.CryptoHasher("sha256").update(readFileSync(path)).digest("hex");

export function filesUnder(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => statSync(join(folder, name)).isFile())
    .sort();
}

const hashFolder = (folder: string): string =>
  filesUnder(folder)
    .map((name) => `${name} ${hashFile(join(folder, name))}`)
    .join("\n");

/** The adapter, and the losses of all steps. */
export function trainedBits(output: string): string {
  const lines = readFileSync(join(output, "metrics.jsonl"), "utf8").trim().split("\n");
  const losses = lines.map((line) => {
    const { type, step, loss, gradientNorm } = JSON.parse(line) as Record<string, unknown>;
    return JSON.stringify([type, step, loss, gradientNorm]);
  });
  return [hashFile(join(output, "adapter_model.safetensors")), ...losses].join("\n");
}

const TRAINING =
  "--threads 1 --sequence-length 32 --learning-rate 1e-2 --schedule constant --warmup 0 --dropout 0.1 --rank 2 --save-every 1 --no-sample --resume";

export const trainArgs = (folder: string, output: string, data = join(folder, "data.jsonl"), steps = STEPS): string[] => [
  "train",
  "--model",
  join(folder, "model"),
  "--data",
  data,
  "--output",
  output,
  "--steps",
  String(steps),
  ...TRAINING.split(" "),
];

export const generateArgs = (folder: string, model: readonly string[], output: string): string[] => [
  "generate",
  ...model,
  "--data",
  join(folder, "prompts.jsonl"),
  "--out",
  output,
  ..."--max-new-tokens 8 --threads 1 --overwrite".split(" "),
];

export async function createWorld(folder: string, seed: number): Promise<World> {
  const model = writeTinyModel(join(folder, "model"), {
    num_hidden_layers: 2,
    hidden_size: 16,
    head_dim: 4,
    intermediate_size: 16,
  });
  const words = ["king", "house", "water", "tree", "sword", "bread", "stone", "night", "horse", "lamp", "river", "bird"];
  const lines = (records: readonly object[]) => records.map((record) => `${JSON.stringify(record)}\n`).join("");
  const examples = words.map((word) => ({ prompt: `Define ${word}. `, completion: `A thing called ${word}.` }));
  writeFileSync(join(folder, "data.jsonl"), lines(examples));
  writeFileSync(join(folder, "prompts.jsonl"), lines(examples.slice(0, 3).map(({ prompt }) => ({ prompt }))));
  const adapter = join(folder, "whole-train");
  const remove = (output: string) => rmSync(output, { recursive: true, force: true });
  const withAdapter = ["--model", model, "--adapter", adapter];
  const works: readonly Work[] = [
    { name: "train", args: (output) => trainArgs(folder, output), again: () => {}, bits: trainedBits },
    { name: "merge", args: (output) => ["merge", ...withAdapter, "--out", output], again: remove, bits: hashFolder },
    {
      name: "export gguf",
      args: (output) => ["export", "gguf", ...withAdapter, "--out", join(output, "tiny.gguf")],
      again: remove,
      bits: hashFolder,
    },
    {
      name: "generate",
      args: (output) => generateArgs(folder, withAdapter, join(output, "answers.jsonl")),
      again: remove,
      bits: hashFolder,
    },
  ];
  const start = (args: readonly string[], cache = join(folder, "cache")) =>
    Bun.spawn([process.execPath, MAIN, ...args], {
      env: { ...process.env, REMAT_CACHE: cache },
      stdin: "ignore",
      stdout: "ignore",
      stderr: "pipe",
    });
  let number = 0;
  const world: World = {
    folder,
    random: createRandom(seed, "campaigns"),
    works,
    baseline: new Map(),
    start,
    async run(args, cache) {
      const child = start(args, cache);
      const [stderr, code] = await Promise.all([new Response(child.stderr).text(), child.exited]);
      return { code, stderr };
    },
    fresh: (name) => join(folder, `${name.replaceAll(" ", "-")}-${number++}`),
  };
  for (const work of works) {
    const output = join(folder, `whole-${work.name.replaceAll(" ", "-")}`);
    prepare(work, output);
    const from = performance.now();
    const { code, stderr } = await world.run(work.args(output));
    if (code !== 0) throw new Error(`${work.name} ends with ${code} when nothing disturbs it: ${stderr}`);
    (world.baseline as Map<string, object>).set(work.name, { bits: work.bits(output), ms: performance.now() - from });
  }
  return world;
}

/** Makes the folder of verbs that write a file into one. */
export function prepare({ name }: Work, output: string): void {
  if (name === "export gguf" || name === "generate") mkdirSync(output, { recursive: true });
}

export function copy(from: string, to: string): string {
  if (existsSync(to)) rmSync(to, { recursive: true });
  cpSync(from, to, { recursive: true });
  return to;
}

/** Numbers of outcomes by name, and what was lost, in words. */
export class Tally {
  readonly counts = new Map<string, number>();
  readonly lost: string[] = [];

  add(outcome: string): void {
    this.counts.set(outcome, (this.counts.get(outcome) ?? 0) + 1);
  }

  lose(what: string): void {
    this.add("LOST");
    this.lost.push(what);
  }

  print(campaign: string): void {
    const counts = [...this.counts].map(([outcome, count]) => `${count} ${outcome}`).join(", ");
    console.log(`${campaign}: ${counts || "nothing done"}`);
    for (const what of this.lost) console.log(`  lost: ${what}`);
  }
}

/** Tells whether a process ended with one clear message, and no stack. */
export function isRefusal({ code, stderr }: Ended): boolean {
  return (code === 1 || code === 2) && /^remat: /m.test(stderr) && !/^\s+at /m.test(stderr);
}

export const shown = ({ code, stderr }: Ended, world: World): string =>
  `code ${code}: ${stderr.trim().split("\n").slice(0, 3).join(" / ").replaceAll(world.folder, "")}`;
