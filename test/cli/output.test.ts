import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../hf/temp.ts";
import { copyFolder, writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

const main = join(import.meta.dir, "../../src/cli/main.ts");
const folder = temporaryFolder();
const model = writeTinyModel(join(folder, "model"), {
  num_hidden_layers: 2,
  hidden_size: 16,
  head_dim: 4,
  intermediate_size: 16,
});
const data = join(folder, "data.jsonl");
writeFileSync(data, '{"prompt": "Define king. ", "completion": "A thing."}\n'.repeat(4));

/** Runs a command line in a shell. */
async function shell(redirect: string, ...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const child = Bun.spawn(["bash", "-c", `"$@" ${redirect}`, "bash", process.execPath, main, ...args], {
    stdout: "pipe",
    stderr: "pipe",
    stdin: "ignore",
  });
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { code: await child.exited, stdout, stderr };
}

const LOST = /^remat: standard (output|error) cannot be written: the disk is full; [^\n]*\n$/;

describe("a full disk behind the output is one sentence and exit code 2", () => {
  test("train ends in good order, saved, and goes on when it is resumed", async () => {
    const output = join(folder, "run");
    const args = ["train", "--model", model, "--data", data, "--output", output, "--threads", "1", "--steps", "200"];
    const flags = [...args, "--sequence-length", "32", "--save-every", "50", "--no-sample", "--json"];
    const { code, stderr } = await shell("> /dev/full", ...flags);
    expect(code).toBe(2);
    expect(stderr).toMatch(LOST);
    const steps = readFileSync(join(output, "metrics.jsonl"), "utf8").match(/"type":"step"/g)?.length ?? 0;
    expect(steps).toBeLessThan(200);
    expect(existsSync(join(output, "adapter_model.safetensors"))).toBe(true);
    const resumed = await shell("", ...flags, "--resume");
    expect(resumed.code).toBe(0);
    expect(resumed.stdout).toContain(`"type":"resume","step":${steps}`);
  });

  test.each([
    ["> /dev/full", ["--help"]],
    ["> /dev/full", ["plan", "--model", model]],
    ["> /dev/full", ["data", "show", data, "--model", model]],
    ["> /dev/full", ["chat", "--model", model, "--raw", "--prompt", "x", "--max-new-tokens", "2"]],
    ["2> /dev/full", ["no-such-verb"]],
  ])("%s of %p", async (redirect, args) => {
    const { code, stdout, stderr } = await shell(redirect, ...args);
    expect(code).toBe(2);
    expect(redirect.startsWith("2") ? stdout : stderr).toMatch(LOST);
  });

  test("a reader that leaves is no failure", async () => {
    const { code, stderr } = await shell('| head -n 1; exit "${PIPESTATUS[0]}"', "data", "show", data, "--model", model);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  });
});

describe("what is no file", () => {
  test("a pipe or device in a model folder is refused, and not waited for", async () => {
    for (const name of ["config.json", "tokenizer.json", "model.safetensors"]) {
      const odd = copyFolder(model, join(folder, `odd-${name}`));
      rmSync(join(odd, name));
      expect(Bun.spawnSync(["mkfifo", join(odd, name)]).exitCode).toBe(0);
      const { code, stderr } = await shell("", "eval", "--model", odd, "--data", data);
      expect({ code, stderr: stderr.trim() }).toEqual({
        code: 2,
        stderr: `remat: cannot read ${join(odd, name)}: it is a pipe or a device, not a file; write its content to a file first`,
      });
    }
  });
});

test("a peak above what the process may hold is a warning before anything of its size is reserved", async () => {
  const args = ["train", "--model", model, "--data", data, "--output", join(folder, "lack"), "--steps", "1", "--no-sample"];
  const child = Bun.spawn(["bash", "-c", 'ulimit -m 40000; exec "$@"', "bash", process.execPath, main, ...args], {
    stdout: "pipe",
    stderr: "pipe",
  });
  const stderr = await new Response(child.stderr).text();
  expect(await child.exited).toBe(0);
  expect(stderr).toMatch(
    /the predicted peak is \S+ \w+, \S+ MiB for the whole process, and this machine or container has 39.1 MiB/,
  );
});
