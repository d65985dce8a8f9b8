import { basename, resolve } from "node:path";
import { escapeMarkup } from "../../../base/charts/text.ts";
import { formatBytes } from "../../../base/bytes.ts";
import { formatDuration } from "../../../base/duration.ts";
import { formatMetric } from "../../../objectives/index.ts";
import { LOSS } from "../../../objectives/objective.ts";
import { type TrainConfig, trainConfigSchema } from "../../config.ts";
import { type RunCurves, SMOOTHED } from "./curves.ts";
import { type Facts, factsElement } from "./facts.ts";
import { inPage, lossPicture, memoryPicture, metricsOf, type Picture, stepPictures, titleOf } from "./pictures.ts";
import { STYLE } from "./style.ts";

export interface PageInput {
  readonly config: TrainConfig;
  readonly curves: RunCurves;
  /** Null: all that is known is the configuration and `metrics.jsonl`. */
  readonly facts: Facts | null;
  readonly now: Date;
}

/** Nothing is fetched and nothing is run, whatever texts are in the page. */
const POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/** The report of a run as one HTML file. All texts of a user are escaped. */
export function reportPage(input: PageInput): string {
  const { config, curves, facts, now } = input;
  const name = basename(resolve(config.output));
  const sections = [
    section("curves", "Curves", curveParts(curves)),
    ...(facts ? [section("memory", "Memory", memoryParts(facts))] : []),
    ...(facts?.sample ? [section("samples", "Samples", sampleParts(facts.sample))] : []),
    section("run", "Run", [runTable(input)]),
    section("configuration", "Configuration", configurationParts(config)),
    ...(curves.evaluations().length > 0 ? [section("numbers", "Evaluations", [evaluationTable(curves)])] : []),
    ...(facts && facts.warnings.length > 0 ? [section("warnings", "Warnings", [list(facts.warnings)])] : []),
  ];
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${POLICY}">
<meta name="generator" content="remat">
<title>${text(name)}: training report</title>
<style>${STYLE}</style>
</head>
<body>
<a class="skip" href="#content">To the content</a>
<header>
<h1>${text(name)}</h1>
<p>${text(stateText(curves, facts))}</p>
<p class="muted">As of ${now.toISOString().slice(0, 16).replace("T", " ")} UTC</p>
<nav aria-label="Sections"><ul>${sections.map(({ id, title }) => `<li><a href="#${id}">${title}</a></li>`).join("")}</ul></nav>
</header>
<main id="content">
${tiles(input)}
${sections.map(({ html }) => html).join("\n")}
</main>
${facts ? factsElement(facts) : ""}
</body>
</html>
`;
}

const text = escapeMarkup;

interface Section {
  readonly id: string;
  readonly title: string;
  readonly html: string;
}

function section(id: string, title: string, parts: readonly string[]): Section {
  return { id, title, html: `<section id="${id}"><h2>${title}</h2>\n${parts.join("\n")}\n</section>` };
}

/** Says in a sentence how the run ended, or how far it is. */
function stateText({ step, steps }: RunCurves, facts: Facts | null): string {
  const at = `step ${step} of ${steps}`;
  switch (facts?.end.reason) {
    case "finished":
      return `Finished after ${step} steps`;
    case "interrupted":
      return `Interrupted after ${at}; --resume goes on from there`;
    case "patience":
      return `Stopped after ${at}: the held-out evaluations no longer got better`;
    case "failed":
      return `Failed after ${at}: ${facts.end.message ?? "an error"}`;
    case "running":
      return step === 0 ? "Training has begun" : `Training, ${at} done`;
    case undefined:
      return `${at[0]!.toUpperCase()}${at.slice(1)}`;
  }
}

const last = <T>(values: readonly T[]): T | undefined => values.at(-1);

/** The few numbers that are looked for first. */
function tiles({ curves, facts }: PageInput): string {
  const heldOut = curves.heldOut(LOSS.name);
  const mean = last(curves.trained(SMOOTHED));
  const loss = (value: number) => formatMetric(LOSS, value);
  const entries: (readonly [name: string, value: string])[] = [];
  if (heldOut.length > 0) {
    const [first, end] = [heldOut[0]!, last(heldOut)!];
    entries.push(["Held-out loss", first === end ? loss(end[1]) : `${loss(first[1])} → ${loss(end[1])}`]);
  }
  if (mean) entries.push(["Training loss, moving mean", loss(mean[1])]);
  entries.push(["Time of the steps", formatDuration(curves.seconds)]);
  if (curves.seconds > 0) entries.push(["Speed", `${Math.round(curves.tokens / curves.seconds)} tokens/s`]);
  if (facts) {
    const { measured, peak, process } = facts.memory;
    entries.push(["Peak memory, planned", formatBytes(peak)]);
    if (measured > 0) entries.push(["Peak memory, measured", formatBytes(measured)]);
    if (process > 0) entries.push(["Peak of the process", formatBytes(process)]);
  }
  return `<dl class="tiles">${entries.map(([name, value]) => `<div><dt>${name}</dt><dd>${text(value)}</dd></div>`).join("")}</dl>`;
}

const figure = (picture: Picture, sizes: Parameters<typeof inPage>[1]): string => `<figure>${inPage(picture, sizes)}</figure>`;

function curveParts(curves: RunCurves): string[] {
  if (curves.step === 0 && curves.evaluations().length === 0) return ["<p>No step is done yet.</p>"];
  const small = stepPictures(curves).map((picture) => figure(picture, ["narrow"]));
  return [figure(lossPicture(curves), ["wide", "narrow"]), `<div class="charts">${small.join("\n")}</div>`];
}

/** Names of the parts of resident memory. */
const PARTS: Readonly<Record<string, string>> = {
  frozen: "frozen weights",
  window: "window of weights",
  trainable: "trained weights",
  gradients: "gradients",
  optimizer: "optimizer state",
  batch: "batch inputs",
  logits: "logits",
  checks: "replay checks",
};

function memoryParts(facts: Facts): string[] {
  const { resident, stash, workspace, temporary, peak, withoutCheckpointing, limit, measured, process } = facts.memory;
  const planned: (readonly [string, number])[] = [
    ...Object.entries(resident).map(([name, bytes]) => [PARTS[name] ?? name, bytes] as const),
    ["stash", stash],
    ["workspace", workspace],
    ["temporary memory of ONNX Runtime", temporary],
  ];
  const totals: (readonly [string, number])[] = [
    ["planned peak, the sum", peak],
    ["measured peak of the same", measured],
    ["limit that was taken for stash and workspace", limit ?? 0],
    ["without gradient checkpointing", withoutCheckpointing],
    ["peak of the whole process", process],
  ];
  const rows = [...planned.filter(([, bytes]) => bytes > 0), ...totals.filter(([, bytes]) => bytes > 0)];
  const table = `<table><caption>Planned, at the moment of its peak, and measured</caption><tbody>${rows
    .map(([name, bytes]) => `<tr><th scope="row">${text(name)}</th><td class="number">${formatBytes(bytes)}</td></tr>`)
    .join("")}</tbody></table>`;
  return [`<p>${text(capital(facts.run.schedule))}.</p>`, figure(memoryPicture(facts), ["wide", "narrow"]), table];
}

function sampleParts({ prompt, before, after }: NonNullable<Facts["sample"]>): string[] {
  const block = (title: string, content: string) =>
    `<h3>${title}</h3><div class="text">${content === "" ? '<span class="muted">(nothing)</span>' : text(content)}</div>`;
  return [
    block("Prompt, held out", prompt),
    ...(before === null ? [] : [block("Answer before training", before)]),
    ...(after === null ? [] : [block("Answer after training", after)]),
  ];
}

function runTable({ config, facts }: PageInput): string {
  const rows: [string, string][] = [["base model", config.model]];
  if (facts) {
    const { run } = facts;
    rows.push(["architecture", `${run.family}, ${run.layers} layers, ${count(run.parameters.all)} parameters`]);
    const share = ((100 * run.parameters.trainable) / run.parameters.all).toFixed(2);
    rows.push(["trained", `${config.method}, ${count(run.parameters.trainable)} parameters (${share} %)`]);
  } else rows.push(["trained", config.method]);
  if (config.adapter !== undefined) rows.push(["from the adapter", config.adapter]);
  rows.push(["data", inWords(config.data)]);
  if (config.valid !== undefined) rows.push(["held-out data", inWords(config.valid)]);
  if (facts) {
    const { run } = facts;
    const targets = run.labelled === 0 ? "texts judged as a whole" : `${count(run.labelled)} with a target`;
    rows.push(["examples", `${count(run.examples)}, ${count(run.tokens)} tokens, ${targets}`]);
    if (run.heldOut > 0) rows.push(["held-out examples", count(run.heldOut)]);
    rows.push(["device", run.device], ["strategy", run.strategy]);
    if (run.offload !== null) rows.push(["offload", run.offload]);
    for (const note of run.notes) rows.push(["note", note]);
    if (facts.end.bestStep !== null) rows.push(["exported", `the weights after step ${facts.end.bestStep}`]);
  }
  const body = rows.map(([name, value]) => `<tr><th scope="row">${text(name)}</th><td>${text(value)}</td></tr>`).join("");
  return `<table><tbody>${body}</tbody></table>${facts ? exampleText(facts) : ""}`;
}

/** The first training example, with what is learned of it marked. */
function exampleText({ run }: Facts): string {
  const parts = run.firstExample.map((part) => (part.trained ? `<mark>${text(part.text)}</mark>` : text(part.text)));
  if (parts.length === 0) return "";
  return `<details><summary>First training example; what is learned is marked</summary><div class="text">${parts.join("")}</div></details>`;
}

function configurationParts(config: TrainConfig): string[] {
  const entries = Object.keys(trainConfigSchema.shape)
    .map((key) => [key, config[key as keyof TrainConfig]] as const)
    .filter(([, value]) => value !== undefined);
  const isDefault = ([key, value]: readonly [string, unknown]) => {
    const found = trainConfigSchema.shape[key as keyof TrainConfig]?.safeParse(undefined);
    return found?.success === true && Bun.deepEquals(found.data, value);
  };
  const table = (rows: readonly (readonly [string, unknown])[]) =>
    `<table><tbody>${rows.map(([key, value]) => `<tr><th scope="row"><code>${text(kebab(key))}</code></th><td>${text(inWords(value))}</td></tr>`).join("")}</tbody></table>`;
  const [chosen, defaults] = [entries.filter((entry) => !isDefault(entry)), entries.filter(isDefault)];
  return [table(chosen), `<details><summary>${defaults.length} keys with their defaults</summary>${table(defaults)}</details>`];
}

function evaluationTable(curves: RunCurves): string {
  const metrics = metricsOf(curves).filter(({ name }) => curves.heldOut(name).length > 0);
  const columns = [LOSS, ...metrics];
  const head = `<tr><th scope="col" class="number">Step</th>${columns.map((metric) => `<th scope="col" class="number">${text(titleOf(metric))}</th>`).join("")}</tr>`;
  const rows = curves.evaluations().map(({ step, values }) => {
    const cells = columns.map((metric) => {
      const value = values[metric.name];
      return `<td class="number">${value === undefined ? "" : text(formatMetric(metric, value))}</td>`;
    });
    return `<tr><th scope="row" class="number">${step}</th>${cells.join("")}</tr>`;
  });
  return `<div class="scroll" tabindex="0" role="region" aria-label="Evaluations on held-out examples"><table><caption>On held-out examples</caption><thead>${head}</thead><tbody>${rows.join("")}</tbody></table></div>`;
}

const list = (items: readonly string[]): string => `<ul>${items.map((item) => `<li>${text(item)}</li>`).join("")}</ul>`;

const capital = (sentence: string): string => sentence.slice(0, 1).toUpperCase() + sentence.slice(1);

/** A whole number with commas. By `toLocaleString` it would bring the languages' tables into the process, 2.7 MB. */
const count = (value: number): string => String(value).replaceAll(/\B(?=(?:\d{3})+$)/g, ",");

const kebab = (key: string): string => key.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

function inWords(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}
