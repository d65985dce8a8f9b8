import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { writeTextAtomic } from "../../base/files/files.ts";
import { trainConfigSchema } from "../../train/config.ts";
import { RUN_FILES } from "../../train/run/folder.ts";
import { LOSS } from "../../objectives/objective.ts";
import type { RunCurves } from "../../train/run/report/curves.ts";
import { inFile, lossPicture, metricPicture, metricsOf, type Picture } from "../../train/run/report/pictures.ts";
import { remakeReport } from "../../train/run/report/report.ts";
import { readConfigFile, validateConfig } from "../flags/config-file.ts";
import { describeFlags, parseFlags } from "../flags/flags.ts";
import { openInBrowser } from "../terminal/browser.ts";
import { print } from "../terminal/output.ts";

export const flags = z.strictObject({
  svg: z.string().min(1).optional().describe("draw the curves of the loss, or of --metric, into this file too"),
  metric: z.string().min(1).optional().describe("metric of the objective that --svg draws (the loss)"),
  open: z.boolean().default(false).describe("open the report in the browser"),
});

export function help(): string {
  return `Makes a run's ${RUN_FILES.report} anew, of its ${RUN_FILES.metrics}: of a run that is under way, too.

Usage: remat report RUN [--flag value ...]

${describeFlags(flags)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const { values, words } = parseFlags(flags, args);
  const { svg, metric, open } = validateConfig(flags, values);
  const [folder] = words;
  if (folder === undefined || words.length > 1) throw new UserError(`report takes one run folder, got ${words.length}`);
  if (metric !== undefined && svg === undefined) throw new UserError("--metric says what --svg draws; give --svg FILE");
  const file = join(folder, RUN_FILES.config);
  if (!existsSync(file)) throw new UserError(`${folder} is no run folder: it holds no ${RUN_FILES.config}`);
  const read = await readConfigFile(file);
  const { path, curves } = remakeReport(folder, validateConfig(trainConfigSchema, read.values, file));
  print(path);
  if (svg !== undefined) {
    writeTextAtomic(svg, inFile(pictureOf(curves, metric)));
    print(svg);
  }
  if (open) openInBrowser(path);
  return 0;
}

/** @throws {UserError} a metric that the run has no values of */
function pictureOf(curves: RunCurves, name: string = LOSS.name): Picture {
  if (name === LOSS.name) return lossPicture(curves);
  const metrics = metricsOf(curves);
  const metric = metrics.find((each) => each.name === name);
  if (metric) return metricPicture(curves, metric);
  throw new UserError(`--metric ${name}: the run has values of ${[LOSS, ...metrics].map((each) => each.name).join(", ")}`);
}
