/** Scales of axes: from values to shares of an axis, with ticks at round values. */

export interface Axis {
  readonly label: string;
  /** Base of a logarithmic scale, with ticks at its powers; without it the scale is linear. */
  readonly log?: number;
  /** Ticks of a linear scale are round multiples of this number; `bytes`: of bytes, KiB, MiB or GiB, whichever suits. */
  readonly unit?: number | "bytes";
  /** Ticks are whole numbers. */
  readonly whole?: boolean;
  /** A linear scale begins at the least value, where it would begin at 0 or below. */
  readonly fromData?: boolean;
  /** A linear scale ends with the values, where it would end at a tick. */
  readonly tight?: boolean;
  /** Text of a value; by default six digits of it. */
  readonly format?: (value: number) => string;
}

export interface Scale {
  /** Where a value is on the axis: 0 at its begin, 1 at its end. */
  at(value: number): number;
  readonly ticks: readonly number[];
}

export function formatValue({ format }: Pick<Axis, "format">, value: number): string {
  return format?.(value) ?? String(Number(value.toPrecision(6)));
}

/** Says what an axis shows, a logarithmic scale included. */
export function axisLabel({ label, log }: Axis): string {
  return log ? `${label} (log scale)` : label;
}

/** Whether a value has a place on an axis. */
export function isOn({ log }: Axis, value: number): boolean {
  return Number.isFinite(value) && (!log || value > 0);
}

/** Ticks of an axis, at most, where there is room. */
const MOST_TICKS = 7;

/** Values that differ by less of their size are one value: labels have six digits, and steps between them would be lost in rounding. */
const LEAST_SPREAD = 1e-6;

const isSpread = (low: number, high: number): boolean => high - low > LEAST_SPREAD * Math.max(Math.abs(low), Math.abs(high));

/** Makes scales for values that are on an axis, the one with most ticks first. */
export function* scales(axis: Axis, values: readonly number[]): Generator<Scale> {
  const [low, high] = values.length > 0 ? extremes(values) : axis.log ? [1, axis.log] : [0, 1];
  if (axis.log) yield* logScales(axis.log, low, high);
  else for (let wanted = MOST_TICKS; wanted >= 1; wanted--) yield linearScale(axis, low, high, wanted);
}

/** Of any number of values, which arguments of a function are not. */
function extremes(values: readonly number[]): [low: number, high: number] {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return [low, high];
}

function linearScale(axis: Axis, least: number, high: number, wanted: number): Scale {
  const { whole = false, fromData = false, tight = false } = axis;
  const low = fromData ? least : Math.min(0, least);
  const spread = isSpread(low, high) ? high - low : 0;
  const unit = unitOf(axis, spread / wanted);
  // A single value has a tick on each side.
  const range = spread || (fromData && Math.abs(high) / 10) || unit;
  const nice = stepOf(axis, range / wanted, unit, high);
  const step = whole ? Math.max(1, Math.round(nice)) : nice;
  // A share of a step is what rounding makes of a multiple.
  const [first, last] = [Math.floor(low / step + 1e-9), Math.ceil(high / step - 1e-9)];
  const isFlat = first === last;
  const bottom = tight && spread > 0 ? low : step * (isFlat && fromData ? first - 1 : first);
  const top = tight && spread > 0 ? high : step * (isFlat ? last + 1 : last);
  const begin = Math.ceil(bottom / step - 1e-9);
  const count = Math.floor(top / step + 1e-9) - begin + 1;
  // Adding 0 makes 0 of what rounding leaves as -0.
  const ticks = Array.from({ length: Math.max(0, count) }, (_, i) => (begin + i) * step + 0);
  return { at: (value) => (value - bottom) / (top - bottom), ticks };
}

/** A round step. Where bytes reach into the next unit, it is a power of two, so that labels are round in both. */
function stepOf(axis: Axis, least: number, unit: number, high: number): number {
  if (axis.unit === "bytes" && high >= 1024 * unit) return 2 ** Math.ceil(Math.log2(least) - 1e-9);
  return unit * niceStep(least / unit);
}

function unitOf({ unit = 1 }: Axis, step: number): number {
  if (unit !== "bytes") return unit;
  return 1024 ** Math.max(0, Math.min(3, Math.floor(Math.log(Math.max(1, step)) / Math.log(1024))));
}

/** The nearest 1, 2 or 5 times a power of ten above. */
function niceStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * ([1, 2, 5].find((factor) => factor * power >= least * (1 - 1e-9)) ?? 10);
}

/** Share of the range of values that a logarithmic scale has besides at each end. */
const MARGIN = 0.05;

function* logScales(base: number, low: number, high: number): Generator<Scale> {
  const position = (value: number) => Math.log(value) / Math.log(base);
  const [from, to] = [position(low), position(high)];
  const margin = isSpread(low, high) ? MARGIN * (to - from) : 0.5;
  const [bottom, top] = [from - margin, to + margin];
  const at = (value: number) => (position(value) - bottom) / (top - bottom);
  const first = Math.ceil(bottom);
  const powers = Array.from({ length: Math.max(0, Math.floor(top) - first + 1) }, (_, i) => first + i);
  if (powers.length >= 2) {
    const leastStride = Math.ceil(powers.length / (2 * MOST_TICKS));
    for (let stride = leastStride; powers.length / stride >= 1; stride++) {
      yield { at, ticks: powers.filter((power) => power % stride === 0).map((power) => base ** power) };
    }
    return;
  }
  // Within less than two powers, ticks are round numbers.
  const [begin, end] = [base ** bottom, base ** top];
  for (let wanted = MOST_TICKS; wanted >= 1; wanted--) {
    const step = niceStep((end - begin) / wanted);
    const count = Math.floor(end / step) - Math.ceil(begin / step) + 1;
    yield { at, ticks: Array.from({ length: Math.max(0, count) }, (_, i) => (Math.ceil(begin / step) + i) * step) };
  }
}
