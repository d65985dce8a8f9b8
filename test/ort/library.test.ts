import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import { libraryPath, loadOrt } from "../../src/ort/library.ts";
import { temporaryFolder, userError } from "../hf/temp.ts";

setDefaultTimeout(120_000);

describe("ONNX Runtime's library", () => {
  test("is found, and is the version of the package", async () => {
    const { version } = await Bun.file(Bun.resolveSync("onnxruntime-node/package.json", import.meta.dir)).json();
    expect(loadOrt()).toMatchObject({ version, path: libraryPath() });
  });

  test("one clear error when it is missing or damaged", () => {
    const folder = temporaryFolder();
    const missing = join(folder, "missing.so");
    expect(userError(() => loadOrt(missing))).toStartWith(`ONNX Runtime cannot be loaded from ${missing}: `);
    const damaged = join(folder, "damaged.so");
    writeFileSync(damaged, "no library");
    expect(userError(() => loadOrt(damaged))).toStartWith(`ONNX Runtime cannot be loaded from ${damaged}: `);
    expect(loadOrt().path).toBe(libraryPath());
  });

  test("memory that the system does not have gives one clear error", () => {
    const executor = createOrtExecutor({ threads: 1 });
    expect(userError(() => executor.reserve(2 ** 50))).toContain(`cannot reserve ${2 ** 50} bytes`);
    executor.close();
  });
});
