import { beforeAll, afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CHECKSUM_FILE, verifyChecksums, writeChecksums } from "../../src/base/files/checksums.ts";
import { fileVerdict } from "../../src/base/files/file-verdicts.ts";
import { fromFloat32 } from "../../src/base/float16.ts";
import { examineWeights } from "../../src/hf/weights/examine.ts";
import { openSafetensors } from "../../src/hf/weights/safetensors.ts";
import { writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { temporaryFolder, userError } from "./temp.ts";

const folder = temporaryFolder();
const cache = process.env["REMAT_CACHE"];

beforeAll(() => void (process.env["REMAT_CACHE"] = join(folder, "cache")));
afterAll(() => {
  if (cache === undefined) delete process.env["REMAT_CACHE"];
  else process.env["REMAT_CACHE"] = cache;
});

describe("what was found out about a file", () => {
  test("is kept as long as the file is the same, unless it is to be found out anew", () => {
    const path = join(folder, "file");
    writeFileSync(path, "one");
    let reads = 0;
    const read = (fresh = false) =>
      fileVerdict(
        "test",
        path,
        () => {
          reads++;
          return { text: readFileSync(path, "utf8") };
        },
        { fresh },
      ).text;
    expect([read(), read(), reads]).toEqual(["one", "one", 1]);
    // The same size, and the time of writing put back: the time of change differs all the same.
    writeFileSync(path, "two");
    expect([read(), read(), reads]).toEqual(["two", "two", 2]);
    expect([read(true), reads]).toEqual(["two", 3]);
    for (const name of readdirSync(join(folder, "cache/verdicts"))) writeFileSync(join(folder, "cache/verdicts", name), "{]");
    expect([read(), read(), reads]).toEqual(["two", "two", 4]);
  });

  test("errors are not kept, and a cache that cannot be written costs nothing but time", () => {
    const path = join(folder, "other");
    writeFileSync(path, "x");
    const fails = () =>
      fileVerdict("test", path, () => {
        throw new Error("no");
      });
    expect(fails).toThrow("no");
    process.env["REMAT_CACHE"] = join(path, "below-a-file");
    expect(fileVerdict("test", path, () => ({ ok: 1 }))).toEqual({ ok: 1 });
    process.env["REMAT_CACHE"] = join(folder, "cache");
    expect(userError(() => fileVerdict("test", join(folder, "none"), () => ({})))).toContain("no such file");
  });
});

describe("checksums of a folder", () => {
  const place = join(folder, "sums");
  beforeAll(() => {
    mkdirSync(join(place, "sub"), { recursive: true });
    writeFileSync(join(place, "a.json"), "a");
    writeFileSync(join(place, "sub/b.bin"), "b");
    writeChecksums(place, ["sub/b.bin", "a.json"]);
  });

  test("are those of sha256sum, which checks them", () => {
    const { exitCode, stdout } = Bun.spawnSync(["sha256sum", "--check", "--strict", CHECKSUM_FILE], { cwd: place });
    expect([exitCode, stdout.toString()]).toEqual([0, "a.json: OK\nsub/b.bin: OK\n"]);
    verifyChecksums(place);
    verifyChecksums(join(folder, "cache"));
  });

  test("name what is damaged, missing or no checksum", () => {
    writeFileSync(join(place, "sub/b.bin"), "c");
    expect(userError(() => verifyChecksums(place))).toMatch(/sub\/b\.bin is damaged or was changed: its SHA-256 is [0-9a-f]{16}/);
    const list = readFileSync(join(place, CHECKSUM_FILE), "utf8");
    writeFileSync(join(place, CHECKSUM_FILE), list.replace("sub/b.bin", "sub/none"));
    expect(userError(() => verifyChecksums(place))).toContain("sub/none is missing");
    writeFileSync(join(place, CHECKSUM_FILE), `${list.split("\n")[0]}\nnonsense\n`);
    expect(userError(() => verifyChecksums(place))).toContain(`${CHECKSUM_FILE}:2: expected a checksum`);
  });
});

describe("weights", () => {
  /** More than a piece of the file, so that a value may lie anywhere in several. */
  const LARGE = 5_000_001;
  const write = (name: string, dtype: "f32" | "bf16" | "f16", values: Float32Array): string => {
    const path = join(folder, name);
    writeSafetensors(path, [
      { name: "odd", dtype: "u8", shape: [3], data: new Uint8Array(3).fill(255) },
      { name: "before", dtype, shape: [2], data: fromFloat32(new Float32Array(2), dtype) },
      { name: "large", dtype, shape: [values.length], data: fromFloat32(values, dtype) },
    ]);
    return path;
  };
  const examine = (path: string): string => {
    const source = openSafetensors(path);
    try {
      return examineWeights(source);
    } finally {
      source.close();
    }
  };

  test.each(["f32", "bf16", "f16"] as const)(
    "%s: the largest value is finite, infinities and NaN anywhere are found",
    (dtype) => {
      const most = { f32: 3.4028234663852886e38, bf16: 3.3895313892515355e38, f16: 65504 }[dtype];
      const values = new Float32Array(LARGE).fill(most);
      const identity = examine(write(`${dtype}.safetensors`, dtype, values));
      expect(identity).toMatch(/^[0-9a-f]{64}$/);
      expect(examine(write(`${dtype}.safetensors`, dtype, values))).toBe(identity);
      for (const [i, value] of [
        [0, Infinity],
        [LARGE - 1, -Infinity],
        [2_097_150, NaN],
        [1_048_575, Infinity],
      ] as const) {
        const bad = values.slice();
        bad[i] = value;
        expect(userError(() => examine(write(`${dtype}-bad.safetensors`, dtype, bad)))).toContain('tensor "large"');
      }
      values[LARGE >> 1] = -most;
      expect(examine(write(`${dtype}.safetensors`, dtype, values))).not.toBe(identity);
    },
  );
});
