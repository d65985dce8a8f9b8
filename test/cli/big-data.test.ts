import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { trainOn, writeChats } from "../../bench/big-data.ts";
import { filesIn, temporaryFolder } from "../hf/temp.ts";
import { remat, writeTinyModel } from "../support/cli.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const main = join(import.meta.dir, "../../src/cli/main.ts");

slowTest(
  "16 MB of data take at most 80 MB of memory more than 1 MB; from the token cache at most 20 MB, with the same losses",
  async () => {
    const [large, small] = [join(folder, "large.jsonl"), join(folder, "small.jsonl")];
    writeChats(large, 16e6);
    writeChats(small, 1e6);
    const base = await trainOn(small, folder, 2);
    const first = await trainOn(large, folder, 2);
    const second = await trainOn(large, folder, 2);
    expect(first.peak - base.peak).toBeLessThan(80e6);
    expect(second.peak - base.peak).toBeLessThan(20e6);
    expect(second.losses).toEqual(first.losses);
  },
);

slowTest("16 MB as a JSON array and as CSV take at most 80 MB of memory more than 1 MB", async () => {
  const lines = (bytes: number): string[] => {
    const path = join(folder, "lines.jsonl");
    writeChats(path, bytes);
    return readFileSync(path, "utf8").trim().split("\n");
  };
  const forms = {
    "chats.json": (texts: readonly string[]) => `[${texts.join(",\n")}]`,
    "chats.csv": (texts: readonly string[]) =>
      `messages\n${texts.map((text) => `"${JSON.stringify((JSON.parse(text) as { messages: unknown }).messages).replaceAll('"', '""')}"`).join("\n")}\n`,
  };
  const [large, small] = [lines(16e6), lines(1e6)];
  for (const [name, write] of Object.entries(forms)) {
    const path = join(folder, name);
    writeFileSync(path, write(small));
    const base = await trainOn(path, folder, 2);
    writeFileSync(path, write(large));
    const run = await trainOn(path, folder, 2);
    expect(run.peak - base.peak, name).toBeLessThan(80e6);
  }
});

const model = writeTinyModel(join(folder, "model"));
const data = join(folder, "data.jsonl");
writeChats(data, 12e6, 3);

/** Training that is sent a signal while it tokenizes, which its cache's temporary file tells. */
async function interrupted(signal: NodeJS.Signals, cache: string, output: string) {
  const args = ["train", "--model", model, "--data", data, "--output", output, "--steps", "1", "--truncate", "--threads", "1"];
  const env = { ...process.env, REMAT_CACHE: cache };
  const child = Bun.spawn([process.execPath, main, ...args], { env, stdout: "ignore", stderr: "pipe" });
  const tokens = join(cache, "tokens");
  while (!(existsSync(tokens) && readdirSync(tokens).length > 0) && child.exitCode === null) await Bun.sleep(5);
  child.kill(signal);
  return { code: await child.exited, stderr: await new Response(child.stderr).text() };
}

test("Ctrl-C while data are tokenized: one sentence, exit code 130, no run folder, no piece of a cache", async () => {
  const [cache, output] = [join(folder, "cache-int"), join(folder, "run-int")];
  const { code, stderr } = await interrupted("SIGINT", cache, output);
  expect({ code, stderr }).toEqual({
    code: 130,
    stderr: "remat: interrupted while the data were prepared; nothing was written\n",
  });
  expect(filesIn(join(cache, "tokens"))).toEqual([]);
  expect(existsSync(output)).toBe(false);
});

test("killed while data are tokenized: what it left is no cache, and the next run makes one", async () => {
  const [cache, output] = [join(folder, "cache-kill"), join(folder, "run-kill")];
  await interrupted("SIGKILL", cache, output);
  const left = filesIn(join(cache, "tokens"));
  expect(left).toHaveLength(1);
  expect(left[0]).toEndWith(".tmp");
  expect(existsSync(output)).toBe(false);
  writeChats(data, 100_000, 3);
  const args = ["train", "--model", model, "--data", data, "--output", output, "--steps", "1", "--truncate", "--threads", "1"];
  const child = Bun.spawn([process.execPath, main, ...args], { env: { ...process.env, REMAT_CACHE: cache }, stderr: "ignore" });
  expect(await child.exited).toBe(0);
  expect(filesIn(join(cache, "tokens")).filter((name) => name.endsWith(".tokens"))).toHaveLength(1);
});

test("data that changed since the checkpoint are told, though they have as many examples and tokens", async () => {
  const own = join(folder, "own.jsonl");
  const lines = ["Define king.", "Define lamp."].map((prompt) => `${JSON.stringify({ prompt, completion: " A thing." })}\n`);
  writeFileSync(own, lines.join(""));
  const output = join(folder, "run-changed");
  const args = [
    "train",
    "--model",
    model,
    "--data",
    own,
    "--output",
    output,
    "--steps",
    "2",
    "--save-every",
    "1",
    "--threads",
    "1",
  ];
  expect(await remat(args)).toMatchObject({ code: 0 });
  writeFileSync(own, lines.toReversed().join(""));
  const { code, stderr } = await remat([...args, "--steps", "3", "--resume"]);
  expect(code).toBe(2);
  expect(stderr).toMatch(/it had .*data of 2 examples, \d+ tokens, SHA-256 [0-9a-f]{16}.*, this one has .*data of 2 examples/);
  expect(readFileSync(join(output, "metrics.jsonl"), "utf8")).toContain('"step":2');
});
