import { METRICS } from "../../../objectives/index.ts";

/** A point of a curve: a step, and a value, which is no number where there was none. */
export type Point = readonly [step: number, value: number];

/** A curve of any length in bounded memory. */
export interface Curve {
  add(step: number, value: number): void;
  /** Returns the points in order; all of them while they are few, else the least and the greatest of each stretch, the first and the last. */
  points(): readonly Point[];
}

/** Neighbouring points of a curve. */
interface Stretch {
  low: Point;
  high: Point;
  count: number;
}

/** Stretches of a curve, at most; a drawing has no more pixels to show than their least and greatest values. */
const MOST_STRETCHES = 300;

/** Makes a curve that keeps the extremes of up to `most` stretches, all of one length; when there are more, two become one. */
export function createCurve(most = MOST_STRETCHES): Curve {
  let stretches: Stretch[] = [];
  let length = 1;
  let first: Point | null = null;
  let last: Point | null = null;
  return {
    add(step, value) {
      const point: Point = [step, value];
      first ??= point;
      last = point;
      const open = stretches.at(-1);
      if (open && open.count < length) return extend(open, { low: point, high: point, count: 1 });
      if (stretches.length === most) {
        const pairs = stretches.filter((_, i) => i % 2 === 0);
        pairs.forEach((stretch, i) => {
          const other = stretches[2 * i + 1];
          if (other) extend(stretch, other);
        });
        stretches = pairs;
        length *= 2;
      }
      stretches.push({ low: point, high: point, count: 1 });
    },
    points() {
      const all = [first, ...stretches.flatMap(({ low, high }) => (low[0] < high[0] ? [low, high] : [high, low])), last];
      return all.filter((point): point is Point => point !== null).filter((point, i, points) => point !== points[i - 1]);
    },
  };
}

function extend(stretch: Stretch, { low, high, count }: Stretch): void {
  // A value that is no number says nothing, where another one does.
  if (!(stretch.low[1] <= low[1]) && !Number.isNaN(low[1])) stretch.low = low;
  if (!(stretch.high[1] >= high[1]) && !Number.isNaN(high[1])) stretch.high = high;
  stretch.count += count;
}

/** Values of an evaluation, by name. */
export interface EvaluationRow {
  readonly step: number;
  readonly values: Readonly<Record<string, number>>;
}

/** The curves of a run's steps and evaluations, by the names that `metrics.jsonl` has. */
export interface RunCurves {
  /** Takes a line of `metrics.jsonl`, in their order. What is none is passed over. */
  add(line: Readonly<Record<string, unknown>>): void;
  /** Returns a curve of steps; `SMOOTHED` is the loss's moving mean. */
  trained(name: string): readonly Point[];
  /** Returns a curve of evaluations. */
  heldOut(name: string): readonly Point[];
  /** Returns all evaluations, or every second, every fourth and so on, with the first and the last. */
  evaluations(): readonly EvaluationRow[];
  /** Steps done, steps in all, and seconds in steps. */
  readonly step: number;
  readonly steps: number;
  readonly seconds: number;
  /** Tokens of all steps, padding excluded. */
  readonly tokens: number;
}

/** The moving mean of the training loss. */
export const SMOOTHED = "smoothed loss";

/** Share of the newest step in the moving mean. */
const NEWEST = 0.1;

/** What is drawn of a step, besides loss and metrics. */
const STEP_KEYS = ["learningRate", "gradientNorm", "tokensPerSecond"] as const;

/** Evaluations that are listed, at most. */
const MOST_ROWS = 200;

export function createRunCurves(): RunCurves {
  const curves = { step: new Map<string, Curve>(), evaluation: new Map<string, Curve>() };
  const metrics = [...METRICS.keys()];
  const keys = { step: [...metrics, ...STEP_KEYS], evaluation: metrics };
  let rows: EvaluationRow[] = [];
  let lastRow: EvaluationRow | null = null;
  let stride = 1;
  let evaluations = 0;
  let mean = 0;
  let weight = 0;
  const done = { step: 0, steps: 0, seconds: 0, tokens: 0 };
  const put = (kind: "step" | "evaluation", name: string, step: number, value: number) => {
    const curve = curves[kind].get(name) ?? createCurve();
    curves[kind].set(name, curve);
    curve.add(step, value);
  };
  return {
    add(line) {
      const { type, step } = line;
      if ((type !== "step" && type !== "evaluation") || typeof step !== "number") return;
      const values: Record<string, number> = {};
      for (const name of keys[type]) {
        // JSON has null where a number is not finite.
        if (line[name] === undefined) continue;
        values[name] = typeof line[name] === "number" ? line[name] : NaN;
        put(type, name, step, values[name]);
      }
      if (type === "evaluation") {
        lastRow = { step, values };
        if (evaluations++ % stride === 0) rows.push(lastRow);
        if (rows.length <= MOST_ROWS) return;
        rows = rows.filter((_, i) => i % 2 === 0);
        stride *= 2;
        return;
      }
      const count = (value: unknown) => (typeof value === "number" && value > 0 ? value : 0);
      done.step = step;
      done.steps = count(line["steps"]);
      done.seconds += count(line["seconds"]);
      done.tokens += count(line["tokens"]);
      const loss = values["loss"] ?? NaN;
      if (!Number.isFinite(loss)) return;
      mean = (1 - NEWEST) * mean + NEWEST * loss;
      weight = (1 - NEWEST) * weight + NEWEST;
      put("step", SMOOTHED, step, mean / weight);
    },
    trained: (name) => curves.step.get(name)?.points() ?? [],
    heldOut: (name) => curves.evaluation.get(name)?.points() ?? [],
    evaluations: () => (lastRow !== null && rows.at(-1) !== lastRow ? [...rows, lastRow] : rows),
    get step() {
      return done.step;
    },
    get steps() {
      return done.steps;
    },
    get seconds() {
      return done.seconds;
    },
    get tokens() {
      return done.tokens;
    },
  };
}
