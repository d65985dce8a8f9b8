import { toArrayBuffer } from "bun:ffi";
import { readFileSync } from "node:fs";
import { UserError } from "../../base/errors.ts";
import { lazily } from "../../base/lazily.ts";
import { openLibc } from "../../base/process/libc.ts";
import { NF4_VALUES } from "../../ops/dequantize.ts";
import { amxCode } from "./amx.ts";
import { fewRowsCode } from "./quantised/few-rows.ts";
import { type Int8Code, int8Code } from "./quantised/int8.ts";
import { type Bf16Code, bf16Code } from "./kernels.ts";
import { type PointwiseCode, pointwiseCode } from "./pointwise/pointwise.ts";
import { type ThinCode, thinCode } from "./thin.ts";

/** Addresses in the process of the routines of bf16Code, the same for all threads. */
export interface Bf16Addresses {
  readonly packAlong: { readonly f32: number; readonly bf16: number };
  readonly packAcross: { readonly f32: number; readonly bf16: number };
  readonly multiply: readonly number[];
  /** Routines of AMX, where the processor has it and the system lets us use it. */
  readonly amx: { readonly narrow: number; readonly multiply: number } | null;
}

/** The same of fewRowsCode, by the number of rows less 1, and the numbers that NF4's codes stand for. */
export interface FewRowsAddresses {
  readonly nf4: readonly number[];
  readonly q8: readonly number[];
  readonly numbers: Float32Array;
}

/** The same of int8Code. */
export type Int8Addresses = Omit<Int8Code, "code">;

/** The same of thinCode. */
export type ThinAddresses = Omit<ThinCode, "code">;

/** The same of pointwiseCode; null for what needs AVX512-BF16 where the processor has none. */
export interface PointwiseAddresses extends Omit<PointwiseCode, "code" | "exponentials"> {
  readonly exponentials: { readonly f32: number; readonly bf16: number | null };
}

/** The processor's feature that the routines are made for, by the name that Linux has for it. */
const FEATURE = "avx512_bf16";

/** True if this machine can multiply bf16 by machine code of our own. */
export function hasBf16(): boolean {
  return problem() === null;
}

/** Says how much products gain by bf16 on this processor, where they gain much; null where they do not, or there is no unit for them. */
export function bf16Gain(): string | null {
  if (hasTiles()) return "several times as fast, by AMX";
  // Intel's processors multiply floats as fast.
  return hasBf16() && cpuInfo().includes("AuthenticAMD") ? "up to twice as fast, by AVX512-BF16" : null;
}

/** XFEATURE_XTILEDATA, which a process asks for by arch_prctl; its threads then may use tile registers. */
const [SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XTILEDATA] = [158, 0x1023, 18];

/** Asks for tile registers, once; false where the processor has none, or the system gives none. */
const hasTiles = lazily((): boolean => {
  if (problem() !== null || process.env["REMAT_BF16"] === "avx512" || !features().includes("amx_bf16")) return false;
  const libc = openLibc({ syscall: { args: ["i64", "i64", "i64"], returns: "i64" } });
  return libc !== null && Number(libc.syscall(SYS_ARCH_PRCTL!, ARCH_REQ_XCOMP_PERM!, XTILEDATA!)) === 0;
});

/** Names the unit of this processor that multiplies bf16: it is a part of what decides a run's bits. */
export function bf16Kernel(): "amx" | "avx512" | "none" {
  return hasTiles() ? "amx" : hasBf16() ? "avx512" : "none";
}

const problem = lazily((): string | null => {
  if (process.platform !== "linux" || process.arch !== "x64") return `this is ${process.platform} on ${process.arch}`;
  return features().includes(FEATURE) ? null : "this processor has no AVX512-BF16";
});

/** Lists what the processor has, by the names that Linux has for it; nothing where that is not known. */
export function features(): readonly string[] {
  return (/^flags\s*:(.*)$/m.exec(cpuInfo())?.[1] ?? "").split(" ");
}

const cpuInfo = lazily((): string => {
  try {
    return readFileSync("/proc/cpuinfo", "utf8");
  } catch {
    return "";
  }
});

const [PROT_READ, PROT_WRITE, PROT_EXEC] = [1, 2, 4];
const [MAP_PRIVATE, MAP_ANONYMOUS] = [2, 0x20];

/**
 * Puts the routines into memory of the process, once: it is first written, then executable, never both.
 * @throws {UserError} a processor without bf16, or a system that allows no executable memory
 */
export const bf16Routines = lazily((): Bf16Addresses => {
  const missing = problem();
  if (missing !== null) {
    throw new UserError(`--matmul bf16 needs Linux on x64 and a processor with AVX512-BF16, but ${missing}; use --matmul auto`);
  }
  const made = bf16Code();
  const base = executable(made.code);
  return { ...addressesOf(made, base), amx: hasTiles() ? amxRoutines() : null };
});

/** True if this machine can multiply 8-bit codes by machine code of our own. */
export function hasInt8(): boolean {
  return problemOfInt8() === null;
}

/** Says how much products with 8-bit codes gain by int8 on this processor; null where there is no unit for them, or AMX is faster in bf16. */
export function int8Gain(): string | null {
  return hasInt8() && !hasTiles() ? "in the forward pass up to four times as fast as in f32, by AVX512-VNNI" : null;
}

const problemOfInt8 = lazily((): string | null => {
  if (process.platform !== "linux" || process.arch !== "x64") return `this is ${process.platform} on ${process.arch}`;
  return ["avx512bw", "avx512_vnni"].every((feature) => features().includes(feature))
    ? null
    : "this processor has no AVX512-VNNI";
});

/**
 * Routines for products of 8-bit codes.
 * @throws {UserError} a processor without AVX512-VNNI, or a system that allows no executable memory
 */
export const int8Routines = lazily((): Int8Addresses => {
  const missing = problemOfInt8();
  if (missing !== null) {
    throw new UserError(`--matmul int8 needs Linux on x64 and a processor with AVX512-VNNI, but ${missing}; use --matmul auto`);
  }
  const { code, quantise, packCodes, packScales, multiply } = int8Code();
  const base = executable(code, "int8");
  return {
    quantise: base + quantise,
    packCodes: base + packCodes,
    packScales: base + packScales,
    multiply: multiply.map((offset) => base + offset),
  };
});

/** Routines for products of few rows with quantised weights; null where the processor has no AVX-512, or the system allows no executable memory. */
export const fewRowsRoutines = lazily((): FewRowsAddresses | null =>
  withAvx512(fewRowsCode, ({ nf4, q8 }, addresses) => ({
    nf4: addresses(nf4),
    q8: addresses(q8),
    numbers: Float32Array.from(NF4_VALUES),
  })),
);

/** Routines for products of some rows with a large matrix; null as those of few rows. */
export const thinRoutines = lazily((): ThinAddresses | null =>
  withAvx512(thinCode, ({ turn, along, across }, addresses) => {
    const [f32, bf16] = addresses([across.f32, across.bf16]) as [number, number];
    return {
      turn: addresses([turn])[0]!,
      along: { f32: addresses(along.f32), bf16: addresses(along.bf16) },
      across: { f32, bf16 },
    };
  }),
);

/** Routines for what is computed element by element; null as those of few rows. */
export const pointwiseRoutines = lazily((): PointwiseAddresses | null =>
  withAvx512(pointwiseCode, ({ swiglu, swigluGrad, gelu, geluGrad, exponentials, scaled }, addresses) => {
    const place = (offset: number) => addresses([offset])[0]!;
    return {
      gelu: { exact: place(gelu.exact), tanh: place(gelu.tanh) },
      geluGrad: { exact: place(geluGrad.exact), tanh: place(geluGrad.tanh) },
      swiglu: place(swiglu),
      swigluGrad: place(swigluGrad),
      exponentials: { f32: place(exponentials.f32), bf16: hasBf16() ? place(exponentials.bf16) : null },
      scaled: { f32: place(scaled.f32), bf16: place(scaled.bf16) },
    };
  }),
);

/** Makes code for AVX-512 executable, and says where its routines are; null where the processor has none, or the system allows none. */
function withAvx512<Code extends { readonly code: Uint8Array }, Addresses>(
  make: () => Code,
  place: (made: Code, addresses: (offsets: readonly number[]) => number[]) => Addresses,
): Addresses | null {
  const isX64 = process.platform === "linux" && process.arch === "x64";
  if (!isX64 || !["avx512f", "avx512bw"].every((feature) => features().includes(feature))) return null;
  try {
    const made = make();
    const base = executable(made.code);
    return place(made, (offsets) => offsets.map((offset) => base + offset));
  } catch (error) {
    if (error instanceof UserError) return null;
    throw error;
  }
}

function amxRoutines(): NonNullable<Bf16Addresses["amx"]> {
  const { narrow, multiply, code } = amxCode();
  const base = executable(code);
  return { narrow: base + narrow, multiply: base + multiply };
}

/** Returns the address of a copy of the code that can be called. */
export function executable(code: Uint8Array, matmul: "bf16" | "int8" = "bf16"): number {
  const libc = openLibc({
    mmap: { args: ["ptr", "usize", "int", "int", "int", "i64"], returns: "ptr" },
    mprotect: { args: ["ptr", "usize", "int"], returns: "int" },
  });
  const refused = (call: string) =>
    new UserError(
      `--matmul ${matmul} needs memory for machine code, which this system does not allow (${call} failed, as where SELinux forbids execmem); use --matmul auto`,
    );
  if (!libc) throw refused("opening the C library");
  const address = libc.mmap(null, code.length, PROT_READ! | PROT_WRITE!, MAP_PRIVATE! | MAP_ANONYMOUS!, -1, 0);
  // MAP_FAILED is the greatest address.
  if (address === null || address > 2 ** 52) throw refused("mmap");
  new Uint8Array(toArrayBuffer(address, 0, code.length)).set(code);
  if (libc.mprotect(address, code.length, PROT_READ! | PROT_EXEC!) !== 0) throw refused("mprotect");
  return Number(address);
}

function addressesOf({ packAlong, packAcross, multiply }: Bf16Code, base: number): Omit<Bf16Addresses, "amx"> {
  const both = ({ f32, bf16 }: { readonly f32: number; readonly bf16: number }) => ({ f32: base + f32, bf16: base + bf16 });
  return { packAlong: both(packAlong), packAcross: both(packAcross), multiply: multiply.map((offset) => base + offset) };
}
