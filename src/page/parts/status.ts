import type { Job } from "../api/types.ts";
import { h } from "../base/dom.ts";
import { formatDuration } from "../base/format.ts";

/** The state of a job as people name it. */
export type JobState = Job["status"] | "paused" | "pausing";

const LABELS: Readonly<Record<JobState, string>> = {
  queued: "Queued",
  running: "Training",
  paused: "Paused",
  pausing: "Pausing",
  succeeded: "Done",
  failed: "Failed",
  cancelled: "Cancelled",
};

export function stateOf({ status, remat }: Job): JobState {
  if (status === "running" && remat.paused) return "pausing";
  return status === "queued" && remat.paused ? "paused" : status;
}

export const isOver = ({ finished_at }: Job): boolean => finished_at !== null;

/** Tells whether a job's run folder says of its run: from the first step on, as long as it is kept. */
export const hasReport = ({ remat }: Job): boolean => remat.step > 0 && remat.run_folder !== "nothing";

/** A word with a dot of the state's colour; the word alone says it too. */
export function statusPill(): { readonly element: HTMLElement; show(job: Job): void } {
  const element = h("span", { class: "pill" });
  return {
    element,
    show(job) {
      const state = stateOf(job);
      if (element.dataset["state"] === state) return;
      element.dataset["state"] = state;
      element.textContent = LABELS[state];
    },
  };
}

/** A bar of the steps that are done. */
export function progressBar(name: string): { readonly element: HTMLElement; show(job: Job): void } {
  const inner = h("i");
  const element = h("div", { class: "bar", role: "progressbar", "aria-label": name, "aria-valuemin": 0 }, inner);
  return {
    element,
    show(job) {
      const { step, steps } = job.remat;
      inner.style.width = `${steps > 0 ? (100 * step) / steps : 0}%`;
      element.dataset["state"] = stateOf(job);
      element.setAttribute("aria-valuemax", String(steps));
      element.setAttribute("aria-valuenow", String(step));
    },
  };
}

/** The time that a job still takes, or when nothing is known of it, an empty text. */
export function timeLeft({ estimated_finish, status }: Job): string {
  if (status !== "running" || estimated_finish === null) return "";
  return `${formatDuration(Math.max(0, estimated_finish - Date.now() / 1000))} left`;
}
