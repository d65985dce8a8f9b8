import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { flagName } from "../../../base/names.ts";
import type { RunReport } from "../../../page/api/types.ts";
import { forClients, type JobPlaces } from "../../../jobs/job-config.ts";
import type { Job } from "../../../jobs/job-store.ts";
import { RUN_FILES } from "../../../train/run/folder.ts";
import { factsIn } from "../../../train/run/report/facts.ts";

/** Returns what a run folder says of its run; null: it has not begun, or is gone. */
export function reportOf(places: JobPlaces, job: Job): RunReport | null {
  const path = join(places.home.runOf(job.id), RUN_FILES.report);
  const facts = existsSync(path) ? factsIn(readFileSync(path, "utf8")) : null;
  if (facts === null) return null;
  const { run, memory, sample, warnings } = facts;
  const { withoutCheckpointing: without_checkpointing, limit: _, ...planned } = memory;
  const { family, layers, parameters, device, strategy, schedule, firstExample: first_example, notes } = run;
  const clean = (text: string) => forClients(places, text);
  return {
    object: "fine_tuning.job.report",
    family,
    layers,
    parameters,
    device,
    strategy,
    schedule,
    memory: { ...planned, without_checkpointing },
    first_example,
    sample,
    notes: notes.map(clean),
    warnings: warnings.map(clean),
  };
}

/** The configuration of a job as a file that `remat train` takes, with its files by the names that they were uploaded with. */
export async function configOf({ files }: JobPlaces, { id, base, parent, config }: Job): Promise<string> {
  const { stringify } = await import("yaml");
  const named = (file: string | null) => (file === null ? undefined : (files.get(file)?.filename ?? file));
  const given = {
    model: base,
    adapter: parent ?? undefined,
    data: named(config.training),
    valid: named(config.validation),
    chatTemplate: named(config.chatTemplate),
    ...config.settings,
  };
  const entries = Object.entries(given).filter(([, value]) => value !== undefined);
  const keys = Object.fromEntries(entries.map(([key, value]) => [flagName(key).slice(2), value]));
  return `# The configuration of ${id}: remat train ${id}.yaml\n${stringify(keys)}`;
}
