import type { JobStore } from "../../jobs/job-store.ts";
import type { Ledger } from "../../jobs/ledger.ts";
import type { Queue } from "../../jobs/queue.ts";
import type { AnswerReport } from "../answers.ts";
import type { Host } from "../hosts/host.ts";

/** Counts requests and tokens from the server's start. */
export interface Counters {
  request(status: number): void;
  answer(report: AnswerReport, seconds: number): void;
  text(state: MetricsState): string;
}

export interface MetricsState {
  readonly jobs: JobStore;
  readonly queue: Queue;
  readonly ledger: Ledger;
  readonly hosts: readonly Host[];
}

/** Upper ends of the classes that seconds of answers are counted in. */
const SECONDS = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120] as const;

type Labels = Readonly<Record<string, string | number>>;

export function createCounters(): Counters {
  const requests = new Map<number, number>();
  const classes = SECONDS.map(() => 0);
  let [answers, seconds, waited, prompts, cached, answered] = [0, 0, 0, 0, 0, 0];
  return {
    request: (status) => void requests.set(status, (requests.get(status) ?? 0) + 1),
    answer(report, took) {
      answers++;
      seconds += took;
      waited += report.waited;
      prompts += report.promptTokens;
      cached += report.cachedTokens;
      answered += report.answerTokens;
      SECONDS.forEach((end, i) => (classes[i]! += took <= end ? 1 : 0));
    },
    text({ jobs, queue, ledger, hosts }) {
      const lines: string[] = [];
      const add = (name: string, type: "counter" | "gauge", help: string, values: readonly (readonly [Labels, number])[]) => {
        lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`);
        for (const [labels, value] of values) lines.push(`${name}${labelText(labels)} ${value}`);
      };
      add(
        "remat_requests_total",
        "counter",
        "Requests that were answered or refused, by status.",
        [...requests].map(([status, count]) => [{ status }, count]),
      );
      lines.push(
        "# HELP remat_answer_seconds Seconds from a request to the end of its answer.",
        "# TYPE remat_answer_seconds histogram",
      );
      SECONDS.forEach((end, i) => lines.push(`remat_answer_seconds_bucket{le="${end}"} ${classes[i]}`));
      lines.push(
        `remat_answer_seconds_bucket{le="+Inf"} ${answers}`,
        `remat_answer_seconds_sum ${seconds}`,
        `remat_answer_seconds_count ${answers}`,
      );
      add("remat_answer_wait_seconds_total", "counter", "Seconds that requests waited for their turn.", [[{}, waited]]);
      add("remat_prompt_tokens_total", "counter", "Tokens of prompts, and of these those that were in a cache.", [
        [{ cached: "false" }, prompts - cached],
        [{ cached: "true" }, cached],
      ]);
      add("remat_answer_tokens_total", "counter", "Tokens of answers.", [[{}, answered]]);
      add(
        "remat_jobs",
        "gauge",
        "Fine-tuning jobs, by status.",
        Object.entries(jobs.counts()).map(([status, count]) => [{ status }, count]),
      );
      add("remat_queue_halted", "gauge", "1 while no job is started because the disk is full.", [
        [{}, queue.halted === null ? 0 : 1],
      ]);
      const running = jobs.withStatus("running").flatMap(({ id }) => {
        const progress = queue.progressOf(id);
        return progress === null ? [] : [{ id, progress }];
      });
      add(
        "remat_job_step",
        "gauge",
        "Steps of a job that trains.",
        running.map(({ id, progress }) => [{ job: id }, progress.step]),
      );
      add(
        "remat_job_steps",
        "gauge",
        "Steps that the job is to have.",
        running.map(({ id, progress }) => [{ job: id }, progress.steps]),
      );
      add(
        "remat_job_loss",
        "gauge",
        "Training loss of the job's last step.",
        running.map(({ id, progress }) => [{ job: id }, progress.loss]),
      );
      add(
        "remat_job_tokens_per_second",
        "gauge",
        "Tokens that the job trains on in a second.",
        running.map(({ id, progress }) => [{ job: id }, progress.tokensPerSecond]),
      );
      add("remat_memory_limit_bytes", "gauge", "Memory that serving and jobs may take together.", [[{}, ledger.limit]]);
      add("remat_memory_held_bytes", "gauge", "Memory that is held, by whom.", [
        [{ by: "serving" }, ledger.serving()],
        ...[...ledger.jobs].map(([by, bytes]) => [{ by }, bytes] as const),
      ]);
      add(
        "remat_model_loaded",
        "gauge",
        "1 for a base model that is in memory.",
        hosts.map((host) => [{ model: host.name }, host.isLoaded ? 1 : 0]),
      );
      add(
        "remat_model_adapters",
        "gauge",
        "Adapters of a base model that are in memory.",
        hosts.map((host) => [{ model: host.name }, host.adapters]),
      );
      return `${lines.join("\n")}\n`;
    },
  };
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).map(
    ([name, value]) => `${name}="${String(value).replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n")}"`,
  );
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}
