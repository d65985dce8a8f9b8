import { rmSync } from "node:fs";
import { join } from "node:path";
import { RUN_FILES } from "../train/run/folder.ts";
import type { JobPlaces } from "./job-config.ts";
import type { Job } from "./job-store.ts";

/**
 * Keeps the run folders of the newest ended jobs, and frees the disk of older ones: of a job that has succeeded the checkpoints go and the
 * model stays, until it is deleted by its name; of any other the whole folder goes. A job that another one goes on from is left alone
 * until that one has ended.
 */
export function trimRuns(places: JobPlaces, keep: number | null): void {
  if (keep === null) return;
  const { jobs } = places;
  const ended = jobs
    .withStatus("succeeded", "failed", "cancelled")
    .sort((a, b) => (b.finished_at ?? 0) - (a.finished_at ?? 0) || b.number - a.number);
  const needed = parentsInUse(places);
  for (const job of ended.slice(keep)) {
    if (job.kept !== "whole" || needed.has(job.id)) continue;
    if (job.status === "succeeded") removeCheckpoints(places, job);
    else removeRun(places, job);
  }
}

/** The jobs whose weights others begin with that have not ended. */
export function parentsInUse({ jobs }: JobPlaces): ReadonlySet<string> {
  const parents = jobs
    .withStatus("queued", "running")
    .flatMap(({ config: { parent } }) => (parent?.kind === "job" ? [parent.job] : []));
  return new Set(parents);
}

/** Removes what only a run needs that goes on; the trained model stays. */
function removeCheckpoints({ home, jobs }: JobPlaces, job: Job): void {
  jobs.change(job.id, { kept: "model" });
  for (const name of [RUN_FILES.checkpoints, RUN_FILES.segments])
    rmSync(join(home.runOf(job.id), name), { recursive: true, force: true });
}

/** Removes a run folder with everything in it; the job stays in the list. */
export function removeRun({ home, jobs }: JobPlaces, job: Job): void {
  jobs.change(job.id, { kept: "nothing" });
  rmSync(home.runOf(job.id), { recursive: true, force: true });
}
