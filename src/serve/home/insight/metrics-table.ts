import type { EventLog } from "../../../jobs/events.ts";

/** Columns of the table behind `step`, by their names in the events, and those that evaluations have. */
export const METRIC_COLUMNS = [
  "train_loss",
  "valid_loss",
  "learning_rate",
  "gradient_norm",
  "tokens_per_second",
  "memory",
  "tokens",
  "seconds",
] as const;

/** Rows that are read at a time, some 5 ms: answers go on in between. */
const BATCH = 1000;

/**
 * The numbers of a job so far as CSV: a line for each step, then one for each evaluation of held-out examples. It is read and sent piece by
 * piece, as fast as the client takes it.
 * @param every only each so-manieth step
 */
export function metricsTableOf(events: EventLog, job: string, every: number): Response {
  const pieces = function* (): Generator<string> {
    yield `${["step", ...METRIC_COLUMNS].join(",")}\n`;
    for (const kind of ["step", "evaluation"] as const) {
      let behind = -1;
      for (;;) {
        const rows = events.numbers({ job, kind, behind, limit: BATCH, every, names: METRIC_COLUMNS });
        if (rows.length > 0) yield rows.map((row) => `${row.map((value) => value ?? "").join(",")}\n`).join("");
        if (rows.length < BATCH) break;
        behind = rows.at(-1)![0]!;
      }
    }
  };
  events.flush();
  const made = pieces();
  const body = new ReadableStream<string>({
    async pull(controller) {
      const { done, value } = made.next();
      if (done === true) controller.close();
      else controller.enqueue(value);
      await Bun.sleep(0);
    },
  });
  return new Response(body, { headers: { "content-type": "text/csv; charset=utf-8", "cache-control": "no-store" } });
}
