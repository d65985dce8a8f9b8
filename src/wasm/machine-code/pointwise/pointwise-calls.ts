/** What is computed element by element, by the routines of pointwise.ts, on the calling thread. */
import type { Address } from "../../../runtime/executor.ts";
import type { PointwiseAddresses } from "../executable.ts";
import { ACTIVATION, EXPONENTIALS, LANES, NUMBERS, NUMBERS_AT, POINTWISE_SCRATCH, SCALED } from "../layout.ts";
import { bits, type Routine, routineAt } from "../pack.ts";

/** Routines of assembly/native.ts by the same names. Each says whether it did anything: 0 where there is no machine code. */
export interface PointwiseCalls {
  /** y = silu(gate) up; all f32[n]. */
  swiglu(gate: Address, up: Address, y: Address, n: number): number;
  /** dgate = dy up silu'(gate), dup = dy silu(gate). */
  swigluGrad(gate: Address, up: Address, dy: Address, dgate: Address, dup: Address, n: number): number;
  /** y = gelu(x), by tanh or in its own form. */
  gelu(x: Address, y: Address, n: number, tanh: number): number;
  /** dx = dy gelu'(x) */
  geluGrad(x: Address, dy: Address, dx: Address, n: number, tanh: number): number;
  /** Of the columns of x f32 [rows][columns] the maxima, x = exp(x - maxima), or kept = these as bf16, and their sums. `kept` is 0, or where bf16 goes. */
  exponentials(x: Address, kept: Address, most: Address, sum: Address, rows: number, columns: number): number;
  /** x = from scale factor, where |from scale| is at least `least`, else 0; `from` is bf16, or 0 for x itself. */
  scaled(from: Address, x: Address, scales: Address, rows: number, columns: number, factor: number, least: number): number;
}

const absent = (): number => 0;

/** Where there is no machine code. */
export const noPointwise: PointwiseCalls = {
  swiglu: absent,
  swigluGrad: absent,
  gelu: absent,
  geluGrad: absent,
  exponentials: absent,
  scaled: absent,
};

/** Makes the calls of one thread. */
export function createPointwiseCalls(
  memory: WebAssembly.Memory,
  base: number,
  scratch: Address,
  addresses: PointwiseAddresses,
): PointwiseCalls {
  const [swiglu, swigluGrad] = [routineAt(addresses.swiglu), routineAt(addresses.swigluGrad)];
  const gelu = { exact: routineAt(addresses.gelu.exact), tanh: routineAt(addresses.gelu.tanh) };
  const geluGrad = { exact: routineAt(addresses.geluGrad.exact), tanh: routineAt(addresses.geluGrad.tanh) };
  const { f32, bf16 } = addresses.exponentials;
  const exponentials = { f32: routineAt(f32), bf16: bf16 === null ? null : routineAt(bf16) };
  const scaled = { f32: routineAt(addresses.scaled.f32), bf16: routineAt(addresses.scaled.bf16) };
  const words = new Uint32Array(memory.buffer, scratch, POINTWISE_SCRATCH / 4);
  const floats = new Float32Array(memory.buffer, scratch, POINTWISE_SCRATCH / 4);
  floats.set(Object.values(NUMBERS), NUMBERS_AT / 4);
  const args = base + scratch;
  const setSteps = (count: number, steps: number, mask: number) => {
    words[steps / 4] = Math.ceil(count / LANES);
    words[mask / 4] = bits(((count - 1) % LANES) + 1);
  };
  /** Calls an activation; operands that it does not have are 0. */
  const activate = (routine: Routine, x: Address, up: Address, dy: Address, y: Address, dup: Address, n: number): number => {
    words[ACTIVATION.x / 4] = x;
    words[ACTIVATION.up / 4] = up;
    words[ACTIVATION.dy / 4] = dy;
    words[ACTIVATION.y / 4] = y;
    words[ACTIVATION.dup / 4] = dup;
    setSteps(n, ACTIVATION.steps, ACTIVATION.mask);
    routine(args, base);
    return 1;
  };
  return {
    swiglu: (gate, up, y, n) => activate(swiglu, gate, up, 0, y, 0, n),
    swigluGrad: (gate, up, dy, dgate, dup, n) => activate(swigluGrad, gate, up, dy, dgate, dup, n),
    gelu: (x, y, n, tanh) => activate(tanh ? gelu.tanh : gelu.exact, x, 0, 0, y, 0, n),
    geluGrad: (x, dy, dx, n, tanh) => activate(tanh ? geluGrad.tanh : geluGrad.exact, x, 0, dy, dx, 0, n),
    exponentials(x, kept, most, sum, rows, columns) {
      const routine = kept === 0 ? exponentials.f32 : exponentials.bf16;
      if (routine === null) return 0;
      words[EXPONENTIALS.x / 4] = x;
      words[EXPONENTIALS.stride / 4] = 4 * columns;
      words[EXPONENTIALS.rows / 4] = rows;
      words[EXPONENTIALS.columns / 4] = columns;
      words[EXPONENTIALS.mask / 4] = bits(((columns - 1) % LANES) + 1);
      words[EXPONENTIALS.most / 4] = most;
      words[EXPONENTIALS.sum / 4] = sum;
      words[EXPONENTIALS.kept / 4] = kept;
      words[EXPONENTIALS.keptStride / 4] = 2 * columns;
      routine(args, base);
      return 1;
    },
    scaled(from, x, scales, rows, columns, factor, least) {
      words[SCALED.from / 4] = from === 0 ? x : from;
      words[SCALED.x / 4] = x;
      words[SCALED.scales / 4] = scales;
      words[SCALED.rows / 4] = rows;
      setSteps(columns, SCALED.steps, SCALED.mask);
      const excess = LANES * Math.ceil(columns / LANES) - columns;
      words[SCALED.excess / 4] = 4 * excess;
      words[SCALED.excessHalves / 4] = 2 * excess;
      floats[SCALED.factor / 4] = factor;
      floats[SCALED.least / 4] = least;
      words[SCALED.absolute / 4] = 0x7fffffff;
      scaled[from === 0 ? "f32" : "bf16"](args, base);
      return 1;
    },
  };
}
