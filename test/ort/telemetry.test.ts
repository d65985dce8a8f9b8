import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../hf/temp.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const source = (path: string) => JSON.stringify(join(import.meta.dir, "../../src", path));

/** Begins ONNX Runtime in a process whose home, cache and temporary folder are empty; the files in them when it has ended. */
function filesAfter(name: string, begin: string): string[] {
  const home = join(folder, name);
  mkdirSync(join(home, "tmp"), { recursive: true });
  const script = join(folder, `${name}.ts`);
  writeFileSync(script, begin);
  const env = { ...process.env, HOME: home, XDG_CACHE_HOME: join(home, "cache"), TMPDIR: join(home, "tmp") };
  const { exitCode, stderr } = Bun.spawnSync([process.execPath, script], { env, stderr: "pipe" });
  expect({ exitCode, stderr: stderr.toString() }).toEqual({ exitCode: 0, stderr: "" });
  // Bun keeps compiled sources in the cache.
  return readdirSync(home, { recursive: true, encoding: "utf8" }).filter((file) => !/^(tmp|cache(\/bun.*)?)$/.test(file));
}

const variable = `
const { CString } = await import("bun:ffi");
const { openLibc } = await import(${source("base/process/libc.ts")});
const value = openLibc({ getenv: { args: ["ptr"], returns: "ptr" } }).getenv(new TextEncoder().encode("ORT_DISABLE_TELEMETRY\\0"));
if (!value || new CString(value).toString() !== "1") throw new Error("the variable is not set");`;

test.each([
  ["library", `import { openEnvironment } from ${source("ort/environment.ts")}; openEnvironment();${variable}`],
  ["addon", `import { createAddonExecutor } from ${source("ort/addon.ts")}; createAddonExecutor().close();${variable}`],
])("ONNX Runtime's %s writes no identifier of the machine, no events and no log, and has nothing to send", (name, begin) => {
  expect(filesAfter(name, begin)).toEqual([]);
});
