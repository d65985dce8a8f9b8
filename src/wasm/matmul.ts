/**
 * The native matmul provider: large products go to ONNX Runtime's `Gemm` (MLAS), called through its C API on tensors that view
 * the shared memory. Each kernel thread computes its own rows, on itself: no second thread pool, no copies, and results that
 * do not depend on the number of threads. Where the processor has AVX-512, machine code of our own (machine-code/thin.ts) computes products of experts, of few
 * rows each with matrices of their own, since the library packs a matrix anew for each, and gradients of adapters, since it takes no transposed matrix as it lies.
 * With `bf16` products of two large sides are computed in bf16, with sums in f32, by machine code too (machine-code/). With `int8` those of the forward pass with
 * weights of 8-bit codes are computed from codes of both, and the others as with `bf16` where the processor has it, else as with `native`.
 */
import { type Pointer, ptr } from "bun:ffi";
import { messageOf } from "../base/errors.ts";
import { BF16_SESSION, type NativeLibrary, type ProductShape } from "../ops/types.ts";
import type { Address } from "../runtime/executor.ts";
import type { Bf16Addresses, Int8Addresses } from "./machine-code/executable.ts";
import type { SharedMemory } from "./memory.ts";
import type { LibraryBoot, NativeBoot } from "./native.ts";
import { nodeModel, type SingleNode } from "./node-model.ts";

/**
 * `auto`: native where the library loads; never `bf16`, which rounds. `codes`: WebAssembly, but for products of few rows with quantised
 * weights, which decoding is made of: machine code of our own computes these where it can, as beside the library.
 */
export type MatmulChoice = "auto" | "wasm" | "native" | "bf16" | "int8" | "codes";

export interface MatmulProvider {
  readonly name: "wasm" | "native" | "bf16" | "int8";
  /** One sentence: which library, or why there is none. */
  readonly reason: string;
  /** The library for lowerings; null: there is none. */
  readonly native: (NativeLibrary & { close(): void }) | null;
  /** Native code for threads; null: all products are computed by WebAssembly kernels. */
  readonly boot: NativeBoot | null;
}

const NAMES = ["A", "B", "C", "Y"];
/** Bytes of a pointer and of a name of one letter. */
const NAME_BYTES = 10;

/** Chooses a provider. Never throws for `auto`. @throws {UserError} `native`, `bf16` or `int8`, and something of it is not here */
export async function openMatmul(choice: MatmulChoice, shared: SharedMemory): Promise<MatmulProvider> {
  if (choice === "wasm") return { name: "wasm", reason: "as asked for", native: null, boot: null };
  if (choice === "codes") return { name: "wasm", reason: "as asked for", native: null, boot: await codesBoot(shared) };
  try {
    const code = await import("./machine-code/executable.ts");
    const int8 = choice === "int8" ? code.int8Routines() : null;
    const bf16 = choice === "bf16" || (int8 && code.hasBf16()) ? code.bf16Routines() : null;
    return await openNative(shared, bf16, int8);
  } catch (error) {
    if (choice !== "auto") throw error;
    return { name: "wasm", reason: messageOf(error), native: null, boot: await codesBoot(shared) };
  }
}

async function openNative(shared: SharedMemory, bf16: Bf16Addresses | null, int8: Int8Addresses | null): Promise<MatmulProvider> {
  // Loaded only where it is used: a quarter of the start-up time.
  const [{ openEnvironment, LOG_ERRORS }, { cString, created, loadOrt }] = await Promise.all([
    import("../ort/environment.ts"),
    import("../ort/library.ts"),
  ]);
  const { entry, version } = loadOrt();
  const { api, env, memoryInfo } = openEnvironment();
  const runOptions = created((out) => api.CreateRunOptions(out));
  const options = created((out) => api.CreateSessionOptions(out));
  api.SetIntraOpNumThreads(options, 1);
  api.SetInterOpNumThreads(options, 1);
  api.SetSessionLogSeverityLevel(options, LOG_ERRORS);
  api.DisableMemPattern(options);
  api.AddSessionConfigEntry(options, cString("session.use_env_allocators"), cString("1"));
  api.AddSessionConfigEntry(options, cString("session.disable_prepacking"), cString("1"));

  const base = ptr(shared.bytes(0, 1));
  const names = writeNames(shared, base);
  const sessions = new Map<string, Pointer>();
  const sessionOf = (node: SingleNode): number => {
    const key = JSON.stringify(node);
    let session = sessions.get(key);
    if (session === undefined) {
      const model = nodeModel(node);
      session = created((out) => api.CreateSessionFromArray(env, model, model.length, options, out));
      sessions.set(key, session);
    }
    return session;
  };
  const library: LibraryBoot = {
    entries: {
      Run: entry("Run"),
      CreateTensorWithDataAsOrtValue: entry("CreateTensorWithDataAsOrtValue"),
      ReleaseValue: entry("ReleaseValue"),
      GetErrorMessage: entry("GetErrorMessage"),
      ReleaseStatus: entry("ReleaseStatus"),
    },
    runOptions,
    memoryInfo,
    names,
    bf16,
    int8,
  };
  const least = BF16_LEAST[bf16?.amx ? "amx" : "avx512"];
  const code = await import("./machine-code/executable.ts");
  const thin = code.thinRoutines();
  const units = [...(int8 ? ["AVX512-VNNI"] : []), ...(bf16 ? [bf16.amx ? "AMX" : "AVX512-BF16"] : [])];
  const isBf16 = ({ m, n, k }: ProductShape) => m >= least.rows && n >= least.columns && k >= least.terms;
  return {
    name: int8 ? "int8" : bf16 ? "bf16" : "native",
    reason:
      units.length > 0
        ? `${units.join(", ")}, with ONNX Runtime ${version}`
        : `ONNX Runtime ${version}${thin === null ? "" : ", experts by AVX-512"}`,
    boot: { base, library, fewRows: code.fewRowsRoutines(), thin, pointwise: code.pointwiseRoutines() },
    native: {
      thin: thin !== null,
      int8: int8 !== null,
      pays: bf16 ? (shape) => pays(shape) || isBf16(shape) : pays,
      product(product) {
        const { transA, transB, addend, alpha } = product;
        if (bf16 && (!("m" in product) || isBf16(product))) return BF16_SESSION + floatBits(alpha);
        const rank = { none: [], matrix: [2], column: [2], row: [1] }[addend];
        return sessionOf({
          op: "Gemm",
          inputs: [["A", 2], ["B", 2], ...rank.map((dims) => ["C", dims] as const)],
          attrs: { alpha, transA: Number(transA), transB: Number(transB) },
        });
      },
      unary: (op) => sessionOf({ op, inputs: [["A", 2]], attrs: {} }),
      close() {
        for (const session of sessions.values()) api.ReleaseSession(session);
        sessions.clear();
        api.ReleaseSessionOptions(options);
        api.ReleaseRunOptions(runOptions);
      },
    },
  };
}

/** Machine code alone; null where this machine can have none. */
async function codesBoot(shared: SharedMemory): Promise<NativeBoot | null> {
  const { fewRowsRoutines, pointwiseRoutines } = await import("./machine-code/executable.ts");
  const [fewRows, pointwise] = [fewRowsRoutines(), pointwiseRoutines()];
  return fewRows && { base: ptr(shared.bytes(0, 1)), library: null, fewRows, thin: null, pointwise };
}

/** The names of the tensors: four `char*`, then what they point to. */
function writeNames(shared: SharedMemory, base: number): Address {
  const names = shared.reserve(NAME_BYTES * NAMES.length, "names of native operands");
  const pointers = new BigUint64Array(NAMES.length);
  const letters = new Uint8Array(2 * NAMES.length);
  NAMES.forEach((name, i) => {
    letters[2 * i] = name.charCodeAt(0);
    pointers[i] = BigInt(base + names + 8 * NAMES.length + 2 * i);
  });
  shared.bytes(names, 8 * NAMES.length).set(new Uint8Array(pointers.buffer));
  shared.bytes(names + 8 * NAMES.length, letters.length).set(letters);
  return names;
}

/** Multiply-adds from which the 3 microseconds of a call, on each thread, are made up for. */
const LEAST_WORK = 1 << 19;
/** With fewer rows each thread's share is too small, with fewer columns or terms the library's tiles are half empty. */
const LEAST_ROWS = 32;
const LEAST_COLUMNS = 8;
/** A transposed A is copied first: that must pay. With B transposed too, 64 of its columns must fit the scratch with all their terms. */
const LEAST_TRANSPOSED = 128;
const MOST_TRANSPOSED_TERMS = 8192;

/**
 * Rows from which a product in bf16 gains more than packing B costs, and columns and terms from which it does: all products of adapters gain with
 * AMX's tiles; with vectors those of few terms do, and those of few columns stay in f32 (rank 16, 512 tokens, Qwen2.5-0.5B: 149 and 80 ms of a step, 45 and 64 ms).
 */
const BF16_LEAST = { amx: { rows: 16, columns: 8, terms: 8 }, avx512: { rows: 32, columns: 64, terms: 16 } } as const;

function floatBits(value: number): number {
  return new Uint32Array(Float32Array.of(value).buffer)[0]!;
}

function pays({ m, n, k, transA, transB }: ProductShape): boolean {
  if (m < LEAST_ROWS || n < LEAST_COLUMNS || k < LEAST_COLUMNS || m * n * k < LEAST_WORK) return false;
  return !transA || (m >= LEAST_TRANSPOSED && n >= LEAST_TRANSPOSED && (!transB || k <= MOST_TRANSPOSED_TERMS));
}
