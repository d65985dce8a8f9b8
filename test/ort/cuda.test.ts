import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import { cardMemory, type CudaSearch, describeMissing, findCuda, isHalfInstalled, PROVIDER_FILES } from "../../src/ort/cuda.ts";
import { cudaOptions, expectSameLimit } from "../../src/ort/providers.ts";
import { temporaryFolder, userError } from "../hf/temp.ts";

setDefaultTimeout(120_000);

const NVIDIA = ["libcuda.so.1", "libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcudnn.so.9"];

/** A machine with the given libraries in the system's folders, ONNX Runtime's files in `folder`. */
function machine(libraries: readonly string[], files: readonly string[], overrides: Partial<CudaSearch> = {}): CudaSearch {
  const folder = temporaryFolder();
  for (const file of files) writeFileSync(join(folder, file), "");
  return {
    platform: "linux x64",
    folder,
    folders: [],
    load: (library) => (libraries.includes(library) ? null : "No such file or directory"),
    driver: () => ({ cards: 1, version: 13_000 }),
    ...overrides,
  };
}

describe("looking for CUDA", () => {
  test("everything is there: nothing is missing", () => {
    const state = findCuda(machine(NVIDIA, PROVIDER_FILES));
    expect(state.missing).toEqual([]);
    expect(state.found).toEqual(expect.arrayContaining([...PROVIDER_FILES, ...NVIDIA.slice(1), "1 NVIDIA card"]));
    expect(isHalfInstalled(state)).toBe(false);
  });

  test("nothing is there: driver, provider files and NVIDIA's libraries are named, and where and how", () => {
    const search = machine([], []);
    const state = findCuda(search);
    const names = [NVIDIA[0]!, ...PROVIDER_FILES, ...NVIDIA.slice(1)];
    expect(state.missing.map(({ what }) => what.split(" ")[0]!)).toEqual(names);
    expect(describeMissing(state.missing[2]!)).toBe(
      `libonnxruntime_providers_cuda.so (ONNX Runtime's) is missing, looked for in ${search.folder}; run: remat doctor --install cuda`,
    );
    expect(isHalfInstalled(state)).toBe(false);
  });

  test("each thing that is missing alone is named", () => {
    const missing = (search: CudaSearch) => {
      const state = findCuda(search);
      expect(isHalfInstalled(state)).toBe(true);
      return state.missing.map(({ what }) => what);
    };
    for (const library of NVIDIA.slice(1)) {
      const names = missing(
        machine(
          NVIDIA.filter((name) => name !== library),
          PROVIDER_FILES,
        ),
      );
      expect(names).toEqual([expect.stringContaining(library)]);
    }
    expect(missing(machine(NVIDIA, PROVIDER_FILES, { driver: () => ({ cards: 0, version: 13_000 }) }))).toEqual([
      "an NVIDIA card",
    ]);
    expect(missing(machine(NVIDIA, PROVIDER_FILES, { driver: () => "error 100" }))).toEqual(["an NVIDIA card (error 100)"]);
    expect(missing(machine(NVIDIA, PROVIDER_FILES, { driver: () => ({ cards: 1, version: 12_080 }) }))).toEqual([
      "a driver of CUDA 13 (there is one of CUDA 12.8)",
    ]);
    expect(missing(machine(NVIDIA, []))).toEqual(PROVIDER_FILES.map((file) => `${file} (ONNX Runtime's)`));
  });

  test("libraries without a driver are nothing to speak of", () => {
    expect(isHalfInstalled(findCuda(machine(NVIDIA.slice(1), [])))).toBe(false);
    expect(isHalfInstalled(findCuda(machine([], PROVIDER_FILES)))).toBe(true);
  });

  test("NVIDIA's libraries are taken from other folders too", () => {
    const folder = temporaryFolder();
    mkdirSync(join(folder, "lib"));
    const path = join(folder, "lib", "libcurand.so.10");
    writeFileSync(path, "");
    const libraries = [...NVIDIA.filter((name) => !name.startsWith("libcurand")), path];
    expect(findCuda(machine(libraries, PROVIDER_FILES, { folders: [join(folder, "lib")] })).missing).toEqual([]);
  });

  test("a library that is there and cannot be loaded: the loader's reason is told", () => {
    const load = (library: string) => (library === "libcurand.so.10" ? "undefined symbol: f" : null);
    expect(findCuda(machine([], PROVIDER_FILES, { load })).missing.map(({ what }) => what)).toEqual([
      "libcurand.so.10 (cuRAND of CUDA 13; there is one that cannot be loaded: undefined symbol: f)",
    ]);
  });

  test("other systems are told so", () => {
    const { missing } = findCuda(machine([], [], { platform: "darwin arm64" }));
    expect(missing.map(describeMissing)).toEqual([
      "the CUDA provider for darwin arm64 is missing; it runs on Linux x64 alone: use another device",
    ]);
  });
});

test("CUDA's options: no TF32, an arena that grows as needed, the limit that was asked for", () => {
  expect(cudaOptions()).toEqual({ device_id: "0", use_tf32: "0", arena_extend_strategy: "kSameAsRequested" });
  expect(cudaOptions({ memoryLimit: 2 ** 33 })).toMatchObject({ gpu_mem_limit: "8589934592" });
});

test("a card's memory has one limit in a process: another one is refused, not ignored", () => {
  expectSameLimit(undefined, undefined);
  expectSameLimit(2 ** 30, 2 ** 30);
  const text = "the limit of the card's memory is that of the first executor of a process";
  expect(userError(() => expectSameLimit(2 ** 30, 2 ** 31))).toBe(`${text}: expected 1073741824 bytes, got 2147483648 bytes`);
  expect(userError(() => expectSameLimit(2 ** 30, undefined))).toBe(`${text}: expected 1073741824 bytes, got none`);
});

test("a provider that cannot be loaded gives one clear error with ONNX Runtime's reason, where CUDA is missing", () => {
  const { missing } = findCuda();
  if (missing.length === 0) return createOrtExecutor({ provider: "cuda" }).close();
  const message = userError(() => createOrtExecutor({ provider: "cuda" }));
  expect(message).toMatch(/^ONNX Runtime's cuda provider cannot be used here: .*; see remat doctor$/s);
  expect(message).not.toContain("onnxruntime_src");
});

test("the card's memory: in bytes, above 4 GiB too; null when the runtime fails or is not there", () => {
  const answer = (status: number) => () => (free: BigUint64Array, total: BigUint64Array) => {
    [free[0], total[0]] = [79n << 30n, 80n << 30n];
    return status;
  };
  expect(cardMemory(answer(0))).toEqual({ free: 79 * 2 ** 30, total: 80 * 2 ** 30 });
  expect(cardMemory(answer(100))).toBe(null);
  const absent = () => {
    throw new Error("libcudart.so.13: cannot open shared object file");
  };
  expect(cardMemory(absent)).toBe(null);
});
