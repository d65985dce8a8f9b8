import { closeSync, existsSync, mkdtempSync, openSync, rmSync, statSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createRandom } from "../src/base/random.ts";
import type { RunEvent } from "../src/train/run/events.ts";
import { machine } from "./report.ts";

/**
 * Memory against the size of the data: trains the bundled model for a few steps on a file of chats and on a small one, each
 * in a process of its own, and compares what the processes had resident at most. The second run on the large file finds its
 * tokens in the cache. Everything is written to a temporary folder and removed. Prints one JSON line.
 *
 *     nice -n 10 bun bench/big-data.ts --megabytes 1000
 */

const root = join(import.meta.dir, "..");

/** Writes seeded chats of about 600 bytes; one word in ten occurs nowhere else. @returns how many */
export function writeChats(path: string, bytes: number, seed = 1): number {
  const random = createRandom(seed, "chats");
  const syllables = "ka lo mi ter an so ver in the re qu ist ar en blo st ing ed al ou".split(" ");
  const word = (): string =>
    Array.from({ length: 1 + random.below(4) }, () => syllables[random.below(syllables.length)]).join("");
  const words = Array.from({ length: 30_000 }, word);
  // A few words are frequent and most are rare, as in any language (Zipf).
  const next = (): string =>
    random.below(10) === 0 ? word() + random.next().toString(36) : words[Math.floor(words.length ** random.uniform()) - 1]!;
  const text = (count: number): string => `${Array.from({ length: count }, next).join(" ")}.`;
  const fd = openSync(path, "w");
  let written = 0;
  let count = 0;
  try {
    while (written < bytes) {
      let chunk = "";
      for (; chunk.length < 1 << 20 && written + chunk.length < bytes; count++) {
        const messages = [
          { role: "user", content: text(5 + random.below(30)) },
          { role: "assistant", content: text(10 + random.below(120)) },
        ];
        chunk += `${JSON.stringify({ messages })}\n`;
      }
      written += writeSync(fd, chunk);
    }
  } finally {
    closeSync(fd);
  }
  return count;
}

export interface RunFigures {
  /** Most bytes that the process had resident. */
  readonly peak: number;
  /** Until everything was read, tokenized and checked. */
  readonly secondsBefore: number;
  readonly losses: readonly number[];
}

/** A few steps on a file, in a process of its own with its own token cache. */
export async function trainOn(data: string, folder: string, steps: number): Promise<RunFigures> {
  const flags = `--steps ${steps} --sequence-length 256 --threads 1 --truncate --overwrite --no-sample --json`.split(" ");
  const model = join(root, "recipes/base/model");
  const command = ["train", "--model", model, "--data", data, "--output", join(folder, "run"), ...flags];
  const begin = performance.now();
  const child = Bun.spawn([process.execPath, join(root, "src/cli/main.ts"), ...command], {
    env: { ...process.env, REMAT_CACHE: join(folder, "cache") },
    stdout: "pipe",
    stderr: "inherit",
  });
  let secondsBefore = NaN;
  let peak = NaN;
  const losses: number[] = [];
  let rest = "";
  for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      const event = JSON.parse(line) as RunEvent;
      if (event.type === "start") secondsBefore = (performance.now() - begin) / 1000;
      if (event.type === "step") losses.push(event.loss);
      if (event.type === "done") peak = event.processPeak;
    }
  }
  if ((await child.exited) !== 0)
    throw new Error(`training on ${data} failed: ${child.signalCode ?? `exit code ${child.exitCode}`}`);
  return { peak, secondsBefore, losses };
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      megabytes: { type: "string", default: "1000" },
      small: { type: "string", default: "1" },
      steps: { type: "string", default: "3" },
      folder: { type: "string", default: tmpdir() },
    },
  });
  const folder = mkdtempSync(join(values.folder, "remat-big-data-"));
  try {
    const [large, small] = [join(folder, "large.jsonl"), join(folder, "small.jsonl")];
    const examples = writeChats(large, 1e6 * Number(values.megabytes));
    writeChats(small, 1e6 * Number(values.small), 2);
    const steps = Number(values.steps);
    const base = await trainOn(small, folder, steps);
    const first = await trainOn(large, folder, steps);
    const second = await trainOn(large, folder, steps);
    if (JSON.stringify(first.losses) !== JSON.stringify(second.losses))
      throw new Error("tokens from the cache give other losses");
    const cache = [...new Bun.Glob("**/*.tokens").scanSync(folder)].reduce(
      (sum, name) => sum + statSync(join(folder, name)).size,
      0,
    );
    const megabytes = (bytes: number) => Math.round(bytes / 1e6);
    console.log(
      JSON.stringify({
        machine: machine(),
        bytes: statSync(large).size,
        examples,
        preparationSeconds: Math.round(first.secondsBefore),
        megabytesPerSecond: Number((statSync(large).size / 1e6 / first.secondsBefore).toFixed(1)),
        secondsFromCache: Number(second.secondsBefore.toFixed(1)),
        cacheMegabytes: megabytes(cache),
        peakMegabytes: { small: megabytes(base.peak), large: megabytes(first.peak), largeFromCache: megabytes(second.peak) },
        aboveSmallMegabytes: { first: megabytes(first.peak - base.peak), fromCache: megabytes(second.peak - base.peak) },
      }),
    );
  } finally {
    if (existsSync(folder)) rmSync(folder, { recursive: true });
  }
}
