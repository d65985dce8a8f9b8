import type { Pointer } from "bun:ffi";
import { bindFunctions, text } from "../ort/library.ts";
import { takesBf16 } from "../ops/types.ts";
import type { Address } from "../runtime/executor.ts";
import type {
  Bf16Addresses,
  FewRowsAddresses,
  Int8Addresses,
  PointwiseAddresses,
  ThinAddresses,
} from "./machine-code/executable.ts";
import { createFewProduct, type FewProduct } from "./machine-code/quantised/few.ts";
import { createInt8Product, INT8_ROOM, INT8_SCRATCH, type Int8Product } from "./machine-code/quantised/int8-product.ts";
import { FEW_SCRATCH, POINTWISE_SCRATCH } from "./machine-code/layout.ts";
import { PANELS_AT } from "./machine-code/pack.ts";
import { createPointwiseCalls, noPointwise, type PointwiseCalls } from "./machine-code/pointwise/pointwise-calls.ts";
import { BF16_SCRATCH, createBf16Product } from "./machine-code/product.ts";
import { createThinProduct, THIN_SCRATCH, type ThinProduct } from "./machine-code/thin-product.ts";

/** Describes what threads need to call ONNX Runtime: addresses in the process, the same for all. */
export interface LibraryBoot {
  readonly entries: Readonly<
    Record<"Run" | "CreateTensorWithDataAsOrtValue" | "ReleaseValue" | "GetErrorMessage" | "ReleaseStatus", Pointer>
  >;
  readonly runOptions: Pointer;
  readonly memoryInfo: Pointer;
  /** In the shared memory: `char*` of the inputs "A", "B", "C" and of the output "Y". */
  readonly names: Address;
  /** Routines for products of bf16; null: there are none. */
  readonly bf16: Bf16Addresses | null;
  /** The same for products of 8-bit codes. */
  readonly int8: Int8Addresses | null;
}

/** Describes what threads need for native code. */
export interface NativeBoot {
  /** The shared WebAssembly memory. */
  readonly base: Pointer;
  /** null: no product goes to ONNX Runtime. */
  readonly library: LibraryBoot | null;
  /** Routines for products of few rows with quantised weights; null: there are none. */
  readonly fewRows: FewRowsAddresses | null;
  /** Routines for products of some rows with a large matrix; null: there are none. */
  readonly thin: ThinAddresses | null;
  /** Routines for what is computed element by element, with the bits that WebAssembly's kernels have; null: there are none. */
  readonly pointwise: PointwiseAddresses | null;
}

/** With scratch of the thread's own, see nativeScratch. */
export interface NativeThread extends NativeBoot {
  readonly scratch: Address;
}

/** Describes what the kernels import under `native`: see assembly/native.ts. */
export interface NativeImports extends ThinProduct, PointwiseCalls {
  product(
    session: number,
    a: number,
    b: number,
    c: number,
    out: number,
    m: number,
    n: number,
    k: number,
    transA: number,
    transB: number,
    addend: number,
    aType: number,
    bType: number,
    lda: number,
    ldo: number,
  ): void;
  few: FewProduct;
  int8: Int8Product;
  unary(session: number, x: number, y: number, rows: number, columns: number): void;
}

/** Bytes of scratch that each thread needs for its calls: of the library, then of our own machine code. */
export function nativeScratch({ library }: Pick<NativeBoot, "library">): number {
  return OWN_SCRATCH + Math.max(library?.bf16 ? BF16_SCRATCH : 0, library?.int8 ? PANELS_AT + INT8_ROOM : 0);
}

const CALL_SCRATCH = 64;
const THIN_AT = CALL_SCRATCH + FEW_SCRATCH;
const POINTWISE_AT = THIN_AT + THIN_SCRATCH;
const INT8_AT = POINTWISE_AT + POINTWISE_SCRATCH;
const OWN_SCRATCH = INT8_AT + INT8_SCRATCH;
/** Where in the scratch the pieces are, after two dimensions (i64): handles of A, B, C and of Y. */
const VALUES = 16;
const OUTPUT = VALUES + 24;
/** ONNXTensorElementDataType: float. */
const FLOAT = 1;
/** Kinds of addends in assembly/native.ts. */
const ROW = 2;
const COLUMN = 3;

const absent = (): never => {
  throw new Error("a native command without a native library");
};

const noThin: ThinProduct = { turn: absent, along: absent, across: absent };

/** Where there is no native library: no command asks for it. */
export const noNativeImports: NativeImports = {
  product: absent,
  few: absent,
  int8: absent,
  unary: absent,
  ...noThin,
  ...noPointwise,
};

/** One thread's way into native code. */
export function createNativeImports(memory: WebAssembly.Memory, thread: NativeThread): NativeImports {
  const { base, scratch, fewRows, thin, pointwise, library } = thread;
  return {
    ...(library ? createLibraryImports(memory, base, scratch, library) : noNativeImports),
    ...(thin ? createThinProduct(memory, base, scratch + THIN_AT, thin) : noThin),
    ...(pointwise ? createPointwiseCalls(memory, base, scratch + POINTWISE_AT, pointwise) : noPointwise),
    few: fewRows ? createFewProduct(memory, base, scratch + CALL_SCRATCH, fewRows) : absent,
  };
}

/**
 * One thread's way into ONNX Runtime: makes tensors that view the shared memory, runs the session on this thread (sessions
 * have one thread), lets go of the tensors; about 3 microseconds besides the work itself.
 */
function createLibraryImports(
  memory: WebAssembly.Memory,
  base: Pointer,
  scratch: Address,
  library: LibraryBoot,
): Pick<NativeImports, "product" | "unary" | "int8"> {
  const { Run, CreateTensorWithDataAsOrtValue, ReleaseValue, GetErrorMessage, ReleaseStatus } = bindFunctions(library.entries);
  const { memoryInfo, runOptions, bf16, int8 } = library;
  const words = new Uint32Array(memory.buffer, scratch, CALL_SCRATCH / 4);
  const dims = base + scratch;
  const inputNames = base + library.names;
  const outputName = inputNames + OUTPUT - VALUES;

  const check = (status: Pointer | null): void => {
    if (!status) return;
    const message = text(GetErrorMessage(status));
    ReleaseStatus(status);
    throw new Error(`ONNX Runtime: ${message}`);
  };
  /** A tensor [first, second], or [first]; its handle goes to `to` of the scratch. */
  const createValue = (to: number, address: number, first: number, second: number, rank = 2): void => {
    words[0] = first;
    words[2] = second;
    const bytes = 4 * first * (rank === 2 ? second : 1);
    check(CreateTensorWithDataAsOrtValue(memoryInfo, base + (address >>> 0), bytes, dims, rank, FLOAT, dims + to));
  };
  const release = (at: number): void => {
    ReleaseValue(words[at / 4]! + 2 ** 32 * words[at / 4 + 1]!);
  };
  const run = (session: number, inputs: number): void => {
    const status = Run(session, runOptions, inputNames, dims + VALUES, inputs, outputName, 1, dims + OUTPUT);
    for (let i = 0; i < inputs; i++) release(VALUES + 8 * i);
    release(OUTPUT);
    check(status);
  };

  const multiply = bf16 && createBf16Product(memory, base, scratch + OWN_SCRATCH, bf16);
  // Kept, since a product has as little garbage as can be.
  const left = { address: 0, type: 0, stride: 0, transposed: false };
  const right = { ...left };

  return {
    product(session, a, b, c, out, m, n, k, transA, transB, addend, aType, bType, lda, ldo) {
      if (multiply && takesBf16(session)) {
        Object.assign(left, { address: a, type: aType, stride: lda, transposed: transA !== 0 });
        Object.assign(right, { address: b, type: bType, stride: transB ? k : ldo, transposed: transB !== 0 });
        multiply(left, right, c, addend, out, m, n, k, session % 2 ** 32, ldo);
        return;
      }
      createValue(VALUES, a, transA ? k : m, transA ? m : k);
      createValue(VALUES + 8, b, transB ? n : k, transB ? k : n);
      if (addend === ROW) createValue(VALUES + 16, c, n, 0, 1);
      else if (addend) createValue(VALUES + 16, c, m, addend === COLUMN ? 1 : n);
      createValue(OUTPUT, out, m, n);
      run(session, addend ? 3 : 2);
    },
    // Its room is that of products of bf16, behind what these keep: one product is computed at a time.
    int8: int8 ? createInt8Product(memory, base, scratch + INT8_AT, scratch + OWN_SCRATCH + PANELS_AT, int8) : absent,
    unary(session, x, y, rows, columns) {
      createValue(VALUES, x, rows, columns);
      createValue(OUTPUT, y, rows, columns);
      run(session, 1);
    },
  };
}
