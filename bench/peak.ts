/**
 * The most that a thread can do in WebAssembly SIMD, and in machine code with `vdpbf16ps` and `vpdpbusd`. WebAssembly: 14 independent chains x = x * m + c in registers, no memory. With
 * m and c that makes 16 registers, all that x86-64 has. Several threads at a time may reach less each: processors of a
 * virtual machine can be two halves of one core.
 */
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { CFunction, type Pointer } from "bun:ffi";
import { createAssembler, RDI } from "../src/wasm/machine-code/assembler.ts";
import { executable } from "../src/wasm/machine-code/executable.ts";
import { type Timing, time } from "./time.ts";

const CHAINS = 14;
const UNROLLED = 4;

/** Sums in registers of machine code. */
const SUMS = 24;

/** What is measured, by its name: makes a function that computes `rounds` rounds, of so many floating-point operations each. */
const UNITS = {
  wasm: { operations: UNROLLED * CHAINS * 2 * 4, make: wasmKernel },
  bf16: { operations: SUMS * 2 * 32, make: () => machineKernel("vdpbf16ps") },
  int8: { operations: SUMS * 2 * 64, make: () => machineKernel("vpdpbusd") },
};
type Unit = keyof typeof UNITS;

/** GFLOP/s of each of `threads` threads that run at the same time. */
export async function measurePeak(threads: number, unit: Unit = "wasm"): Promise<Timing> {
  const others = Array.from({ length: threads - 1 }, () => new Worker(new URL(import.meta.url), { workerData: unit }));
  await Promise.all(others.map((other) => new Promise((ready) => other.once("message", ready))));
  for (const other of others) other.postMessage("go");
  const own = peak(unit);
  for (const other of others) await other.terminate();
  return own;
}

if (!isMainThread && parentPort) {
  // Another thread's competitor: busy until it is terminated.
  parentPort.on("message", () => {
    while (true) peak(workerData as Unit);
  });
  parentPort.postMessage("ready");
}

function peak(unit: Unit): Timing {
  const { operations, make } = UNITS[unit];
  const kernel = make();
  const rounds = 20_000;
  for (let i = 0; i < 20; i++) kernel(rounds);
  const { median, best } = time(() => void kernel(rounds), 0.4);
  const rate = (seconds: number): number => (operations * rounds) / seconds / 1e9;
  return { median: rate(median), best: rate(best) };
}

function wasmKernel(): (rounds: number) => unknown {
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(peakModule()));
  return exports["peak"] as (rounds: number) => number;
}

/** Sums, each of its own register, of which no product waits for another one's. */
function machineKernel(product: "vdpbf16ps" | "vpdpbusd"): (rounds: number) => unknown {
  const a = createAssembler();
  for (let i = 0; i < 32; i++) a.vector("vpxord", i, i, i);
  const next = a.label();
  a.place(next);
  for (let i = 0; i < SUMS; i++) a.vector(product, i, SUMS + (i & 3), SUMS + 4 + (i & 3));
  a.addConstant(RDI, -1);
  a.jumpIf("notEqual", next);
  a.vzeroupper();
  a.return();
  const ptr = executable(a.finish()) as Pointer;
  return CFunction({ ptr, args: ["i32"], returns: "void" }) as unknown as (rounds: number) => unknown;
}

// Opcodes of the binary format, https://webassembly.github.io/spec/core/binary/instructions.html
const I32 = 0x7f;
const F32 = 0x7d;
const V128 = 0x7b;
const get = (local: number): number[] => [0x20, local];
const set = (local: number): number[] => [0x21, local];
const i32Const = (value: number): number[] => [0x41, value];
const f32Const = (value: number): number[] => [0x43, ...new Uint8Array(Float32Array.of(value).buffer)];
const SPLAT = [0xfd, 0x13];
const FIRST_LANE = [0xfd, 0x1f, 0];
const ADD = [0xfd, 0xe4, 0x01];
const MULTIPLY = [0xfd, 0xe6, 0x01];

function peakModule(): Uint8Array<ArrayBuffer> {
  const rounds = 0;
  const m = 1;
  const c = 2;
  const chain = (i: number): number => 3 + i;
  const chains = Array.from({ length: CHAINS }, (_, i) => chain(i));
  const start = chains.flatMap((x, i) => [...f32Const(i), ...SPLAT, ...set(x)]);
  // The JIT keeps this order.
  const products = chains.flatMap((x) => [...get(x), ...get(m), ...MULTIPLY, ...set(x)]);
  const sums = chains.flatMap((x) => [...get(x), ...get(c), ...ADD, ...set(x)]);
  const round = Array.from({ length: UNROLLED }, () => [...products, ...sums]).flat();
  const code = [
    [1, CHAINS + 2, V128],
    [...f32Const(0.5), ...SPLAT, ...set(m), ...f32Const(1), ...SPLAT, ...set(c)],
    start,
    [0x03, 0x40],
    round,
    // rounds -= 1; again until it is 0.
    [...get(rounds), ...i32Const(1), 0x6b, 0x22, rounds, 0x0d, 0],
    [0x0b],
    get(chain(0)),
    ...chains.slice(1).map((x) => [...get(x), ...ADD]),
    FIRST_LANE,
    [0x0b],
  ].flat();
  const header = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
  const name = new TextEncoder().encode("peak");
  const sections = [
    section(1, [1, 0x60, 1, I32, 1, F32]),
    section(3, [1, 0]),
    section(7, [1, name.length, ...name, 0, 0]),
    section(10, [1, ...leb(code.length), ...code]),
  ];
  return Uint8Array.from([...header, ...sections.flat()]);
}

const section = (id: number, body: number[]): number[] => [id, ...leb(body.length), ...body];

function leb(value: number): number[] {
  return value < 128 ? [value] : [(value & 127) | 128, ...leb(value >> 7)];
}
