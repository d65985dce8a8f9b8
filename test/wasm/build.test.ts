import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdirSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../src/base/errors.ts";
import { buildKernels, kernelsAreCurrent } from "../../src/wasm/build.ts";
import { readKernels } from "../../src/wasm/kernels.ts";
import { temporaryFolder } from "../hf/temp.ts";

setDefaultTimeout(120_000);

const REPOSITORY = join(import.meta.dir, "../..");

/** A folder with the build's inputs and one small function in place of each module. */
function project(): string {
  const root = temporaryFolder();
  mkdirSync(join(root, "assembly"));
  for (const name of ["asconfig.json", "bun.lock"]) cpSync(join(REPOSITORY, name), join(root, name));
  for (const name of ["matrix", "index"]) {
    writeFileSync(join(root, "assembly", `${name}.ts`), "export function answer(): i32 {\n  return 42;\n}\n");
  }
  return root;
}

describe("kernel build", () => {
  test("compiles once; a change makes it stale; a broken source is named and leaves the last build in place", async () => {
    const root = project();
    expect(() => readKernels(root)).toThrow(UserError);
    expect(() => readKernels(root)).toThrow('the kernels are not compiled; run "bun src/wasm/build.ts"');
    expect(kernelsAreCurrent(root)).toBe(false);

    await Promise.all([buildKernels(root), buildKernels(root)]);
    expect(kernelsAreCurrent(root)).toBe(true);
    const { matrix } = readKernels(root);
    expect(WebAssembly.Module.exports(new WebAssembly.Module(matrix)).map((entry) => entry.name)).toEqual(["answer"]);

    const source = join(root, "assembly/index.ts");
    const good = readFileSync(source, "utf8");
    utimesSync(source, 1, 1);
    const written = statSync(join(root, "build/kernels"));
    await buildKernels(root);
    // A build writes its key anew.
    expect(statSync(join(root, "build/kernels")).ino).toBe(written.ino);

    writeFileSync(source, good.replace("42", "true + nothing"));
    expect(kernelsAreCurrent(root)).toBe(false);
    await expect(buildKernels(root)).rejects.toThrow(/assembly\/index\.ts does not compile:[^]*Cannot find name 'nothing'/);
    expect(readKernels(root).matrix).toEqual(matrix);

    writeFileSync(source, good);
    expect(kernelsAreCurrent(root)).toBe(true);
    expect(readdirSync(join(root, "build")).filter((name) => name.startsWith("."))).toEqual([]);
  });

  test("static data of the two modules, read again at every instantiation, overlaps nothing", () => {
    const modules = readKernels();
    const inside = (segments: readonly [number, number][], from: number, to: number): boolean =>
      segments.every(([start, end]) => from <= start && end <= to);
    expect(inside(dataSegments(modules.matrix), 1024, 32768)).toBe(true);
    expect(inside(dataSegments(modules.index), 32768, 65536)).toBe(true);
  });
});

const DATA_SECTION = 11;
const I32_CONST = 0x41;

/** [start, end) of the active data segments of a WebAssembly module (specification, 5.5.14). */
function dataSegments(module: Uint8Array): [start: number, end: number][] {
  let at = 8;
  const byte = (): number => module[at++]!;
  const number = (): number => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const bits = byte();
      value |= (bits & 0x7f) << shift;
      if (bits < 0x80) return value;
    }
  };
  while (at < module.length) {
    const section = byte();
    const end = number() + at;
    if (section !== DATA_SECTION) {
      at = end;
      continue;
    }
    return Array.from({ length: number() }, () => {
      expect([byte(), byte()]).toEqual([0, I32_CONST]);
      const start = number();
      at++; // end of the expression
      const length = number();
      at += length;
      return [start, start + length];
    });
  }
  return [];
}
