import { afterAll, expect, setDefaultTimeout } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(120_000);

const root = join(import.meta.dir, "../..");
const home = mkdtempSync(join(tmpdir(), "remat-page-"));
afterAll(() => rmSync(home, { recursive: true }));

/** Shell blocks of the page, but those that install or download something. */
const blocks = [...readFileSync(join(root, "docs/first-fine-tune.md"), "utf8").matchAll(/^```sh\n([^]*?)^```/gm)]
  .map(([, block]) => block!)
  .filter((block) => !/npm install|HuggingFaceTB/.test(block));

/** `bun run train` and `bun run remat` of the clone, without its set-up. */
const STAND_IN = `#!/bin/sh
shift
case $1 in train) ;; remat) shift ;; *) exit 9 ;; esac
exec "${process.execPath}" "${join(root, "src/cli/main.ts")}" "$@"
`;

slowTest("the commands of docs/first-fine-tune.md, one after the other, do what the page says", () => {
  mkdirSync(join(home, "bin"));
  writeFileSync(join(home, "bin/bun"), STAND_IN, { mode: 0o755 });
  symlinkSync(join(root, "recipes"), join(home, "recipes"));
  const env = { ...process.env, PATH: `${join(home, "bin")}:${process.env["PATH"]}`, HF_HUB_OFFLINE: "1" };
  const output = blocks.map((block) => {
    const { exitCode, stdout, stderr } = Bun.spawnSync(["sh", "-ec", block], { cwd: home, env, stdout: "pipe", stderr: "pipe" });
    expect([block, exitCode, stderr.toString()]).toEqual([block, 0, expect.any(String)]);
    return stdout.toString();
  });
  expect(output.length).toBe(5);
  const [, data, , answer, after] = output;
  expect(data).toContain("errors       0");
  expect(data).toContain("]n. A line drawn in the sand");
  // Four examples are learned by heart.
  expect(answer!.trim()).toBe("n. A promise that ends on the day before it is needed.");
  expect(after).toContain("token accuracy 100.00 %");
  expect(readFileSync(join(home, "runs/mine-gguf/model.gguf")).subarray(0, 4).toString()).toBe("GGUF");
  expect(readFileSync(join(home, "runs/mine-gguf/model.Modelfile"), "utf8")).toContain("FROM ./model.gguf");
});
