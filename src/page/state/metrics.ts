import { request } from "../api/client.ts";
import { textsOf } from "../api/sse.ts";
import type { JobEvent } from "../api/types.ts";
import { GrowingSeries, type Series } from "../charts/series.ts";

/** Numbers that are drawn, by their names in the table of the server and in its events. */
export const METRICS = ["train_loss", "valid_loss", "learning_rate", "gradient_norm", "tokens_per_second"] as const;

export type Metric = (typeof METRICS)[number];

export interface Metrics {
  series(metric: Metric): Series;
  /** Grows with each change. */
  readonly version: number;
  /** Takes a step or an evaluation as an event tells it; one that is known already is passed over. */
  take(event: JobEvent): void;
}

/** Milliseconds of work after which others get their turn: drawing, keys, the pointer. */
const SLICE_MS = 8;

const pause = () => new Promise<void>((done) => setTimeout(done));

export class RunMetrics implements Metrics {
  version = 0;
  private readonly all = new Map<Metric, GrowingSeries>(METRICS.map((name) => [name, new GrowingSeries()]));
  /** Events that came before the table was whole. */
  private waiting: JobEvent[] | null = [];

  series(metric: Metric): Series {
    return this.all.get(metric)!;
  }

  take(event: JobEvent): void {
    if (event.type !== "metrics" || event.data === null) return;
    if (this.waiting !== null) {
      this.waiting.push(event);
      return;
    }
    const step = event.data["step"] as number;
    for (const name of METRICS) {
      const value = event.data[name];
      if (typeof value === "number") this.all.get(name)!.add(step, value);
    }
    this.version++;
  }

  /** Reads the table of a job, without keeping anything else from its turn. @throws {Problem} */
  async load(job: string, signal: AbortSignal): Promise<void> {
    const response = await request(`v1/fine_tuning/jobs/${job}/metrics`, { signal });
    let names: readonly string[] | null = null;
    let rest = "";
    let begin = performance.now();
    for await (const piece of textsOf(response)) {
      const lines = (rest + piece).split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        const fields = line.split(",");
        if (names === null) names = fields;
        else this.addRow(names, fields);
        if (performance.now() - begin < SLICE_MS) continue;
        this.version++;
        await pause();
        begin = performance.now();
      }
    }
    const { waiting } = this;
    this.waiting = null;
    waiting?.forEach((event) => this.take(event));
    this.version++;
  }

  private addRow(names: readonly string[], fields: readonly string[]): void {
    const step = Number(fields[0]);
    for (let i = 1; i < names.length; i++) {
      const series = this.all.get(names[i] as Metric);
      if (series && fields[i] !== "") series.add(step, Number(fields[i]));
    }
  }
}
