import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { buildExecutable } from "../../src/cli/executable.ts";
import type { Report } from "../../src/doctor/examine.ts";
import { libraryPath } from "../../src/ort/library.ts";
import { slowTest } from "../support/slow.ts";
import { temporaryFolder } from "../hf/temp.ts";

setDefaultTimeout(120_000);

const root = join(import.meta.dir, "../..");
const folder = temporaryFolder();
const program = join(folder, "bin/remat");
const work = join(folder, "work");

/** Starts the executable in an empty environment: it finds no Bun, no Node, no packages. */
function start(...args: string[]) {
  const env = { REMAT_CACHE: join(folder, "cache") };
  return Bun.spawn([program, ...args], { cwd: work, env, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
}

async function remat(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const child = start(...args);
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { code: await child.exited, stdout, stderr };
}

describe("the program as one file", () => {
  beforeAll(async () => {
    mkdirSync(dirname(program));
    mkdirSync(work);
    await buildExecutable(program);
  });
  // A hundred megabytes.
  afterAll(() => rmSync(dirname(program), { recursive: true }));

  test("knows its version, verbs and recipes, and nothing of the clone that it was built in", async () => {
    const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    expect(await remat("--version")).toEqual({ code: 0, stdout: `${version}\n`, stderr: "" });
    expect((await remat("train", "--help")).stdout).toContain("--gradient-accumulation");
    const names = readdirSync(join(root, "recipes"), { withFileTypes: true }).filter((entry) => entry.isDirectory());
    const listed = (await remat("recipes", "list")).stdout.trim().split("\n");
    expect(listed.map((line) => line.split(" ")[0]!)).toEqual(names.map(({ name }) => name).sort());
    expect(readFileSync(program).includes(root)).toBe(false);
  });

  slowTest("trains the bundled example, answers with what it learned, and serves it", async () => {
    const trained = await remat("train", "--steps", "2", "--eval-limit", "100", "--no-sample");
    expect(trained.code, trained.stderr).toBe(0);
    // What it can do better is said.
    expect(trained.stderr).toMatch(
      /matrix products wasm \(ONNX Runtime is not there: put \S+ of .* beside this program, as .*\)/,
    );
    const run = "runs/devils-dictionary";
    expect(readFileSync(join(work, run, "metrics.jsonl"), "utf8").match(/"type":"step"/g)).toHaveLength(2);

    const chat = await remat("chat", "--adapter", run, "--prompt", "Define love.", "--max-new-tokens", "8", "--temperature", "0");
    expect(chat.code, chat.stderr).toBe(0);
    expect(chat.stdout.trim()).not.toBe("");

    const server = start("serve", "--adapter", run, "--port", "0", "--json");
    try {
      let output = "";
      for await (const chunk of server.stdout.pipeThrough(new TextDecoderStream())) if ((output += chunk).includes("\n")) break;
      const { url } = JSON.parse(output.split("\n")[0]!) as { url: string };
      const messages = [{ role: "user", content: "Define love." }];
      const response = await fetch(new URL("/v1/chat/completions", url), {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ messages, max_tokens: 8, temperature: 0 }),
      });
      expect(response.status).toBe(200);
      const { choices } = (await response.json()) as { choices: { message: { content: string } }[] };
      expect(choices[0]!.message.content.trim()).toBe(chat.stdout.trim());
    } finally {
      server.kill();
      await server.exited;
    }
  });

  test("serves its page", async () => {
    const recipe = join(folder, "cache/recipes");
    const model = join(recipe, readdirSync(recipe)[0]!, "base/model");
    const server = start("serve", "--home", "home", "--model", model, "--port", "0", "--json");
    try {
      let output = "";
      for await (const chunk of server.stdout.pipeThrough(new TextDecoderStream()))
        if ((output += chunk).includes('"listening"')) break;
      const { origin } = new URL(
        (JSON.parse(output.split("\n").find((line) => line.includes('"listening"'))!) as { url: string }).url,
      );
      const page = await (await fetch(origin)).text();
      const names = [...page.matchAll(/(?:href|src)="(page\/[^"]+)"/g)].map(([, name]) => name!);
      expect(names.length).toBe(3);
      for (const name of names) expect([name, (await fetch(`${origin}/${name}`)).status]).toEqual([name, 200]);
      const { data } = (await (await fetch(`${origin}/v1/fine_tuning/jobs`)).json()) as { data: unknown[] };
      expect(data).toEqual([]);
    } finally {
      server.kill();
      await server.exited;
    }
  });

  slowTest(
    "takes ONNX Runtime's library when it lies beside it, in processes of its own too; reads a configuration in TypeScript; offloads by threads",
    async () => {
      const devices = async () => (JSON.parse((await remat("doctor", "--json")).stdout) as Report).devices;
      const without = await devices();
      expect(without.map(({ works }) => works)).toEqual([true, false, false, false, false]);
      expect(without[1]!.problem).toContain(`as ${join(dirname(program), "libonnxruntime")}`);

      const library = libraryPath();
      copyFileSync(library, join(dirname(program), library.slice(dirname(library).length + 1)));
      expect((await devices()).slice(0, 3).map(({ works }) => works)).toEqual([true, true, true]);
      const recipe = join(folder, "cache/recipes");
      const model = join(recipe, readdirSync(recipe)[0]!, "base/model");
      const data = join(model, "../../devils-dictionary");
      const config = { model, data, steps: 1, evalLimit: 100, sample: false, output: "offload", quantize: "q8" };
      const source = `import { defineConfig } from "remat";\nexport default defineConfig(${JSON.stringify(config)});\n`;
      writeFileSync(join(work, "train.ts"), source);
      const offload = await remat("train", "train.ts", "--no-gradient-checkpointing", "--offload", "auto");
      expect(offload.code, offload.stderr).toBe(0);
      expect(offload.stderr).toMatch(/matrix products native/);
      expect(existsSync(join(work, "offload/adapter_model.safetensors"))).toBe(true);
    },
  );
});
