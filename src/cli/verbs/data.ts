import { z } from "zod";
import { checkData, type DataReport, type Problems } from "../../data/samples/check.ts";
import { createUnusedCounter, type Mapping } from "../../data/examples/columns.ts";
import { readEntries } from "../../data/examples/dataset.ts";
import { readMapping } from "../../data/examples/formats.ts";
import { allFiles, parseSources, trainingFiles } from "../../data/examples/sources.ts";
import { createSampleMaker } from "../../data/samples/sample-maker.ts";
import { type Sample, sampleParts } from "../../data/samples/sample.ts";
import { withChatSettings } from "../../data/chat/settings.ts";
import { describeNotice } from "../../data/chat/notices.ts";
import { loadTokenizer, type Tokenizer } from "../../data/tokens/tokenizer.ts";
import { UserError } from "../../base/errors.ts";
import { loadConfig } from "../../hf/config/config.ts";
import { contextLimit } from "../../models/context.ts";
import { CHAT_OPTIONS } from "../../library/options.ts";
import { sequenceLengthOf, trainConfigSchema } from "../../train/config.ts";
import { validateConfig } from "../flags/config-file.ts";
import { printEvent } from "../terminal/display.ts";
import { findModel } from "../../load/find-model.ts";
import { hasColour, printNote } from "../terminal/terminal.ts";
import { describeFlags, parseFlags } from "../flags/flags.ts";
import { suggestion } from "../../base/names.ts";
import { print } from "../terminal/output.ts";

export const flags = z.strictObject({
  model: z.string().min(1).optional().describe("model folder, GGUF file or hub name, for its tokenizer and chat template"),
  sequenceLength: z
    .int()
    .min(2)
    .optional()
    .describe("tokens in a row that examples are held against (512, or the model's context)"),
  ...CHAT_OPTIONS,
  columns: trainConfigSchema.shape.columns,
  roles: trainConfigSchema.shape.roles,
  count: z.int().min(1).default(3).describe("show: how many examples"),
  from: z.int().min(1).default(1).describe("show: the first one's line, item or row"),
  listed: z.int().min(0).default(20).describe("check: problems of a kind that are listed one by one"),
  json: z.boolean().default(false).describe("print JSON lines: problems and a report of each file, or examples"),
});

export const words = ["check", "show"] as const;

type Flags = z.output<typeof flags>;

export function help(): string {
  return `Looks at training examples.

Usage: remat data check FILE... [--model DIR] [--flag value ...]
       remat data show FILE... --model DIR [--flag value ...]

FILE is what --data of train takes: a file in JSONL, JSON, CSV or Parquet, a folder, a pattern. check reads whole files (of a folder all splits) and reports counts, lengths,
duplicates, over-long examples and every error with its line; it exits with 1 if there are errors. show prints examples as the model sees them: what is not trained on is dimmed, or, where the
output is no terminal, in [brackets].

${describeFlags(flags)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const parsed = parseFlags(flags, args);
  const [action, ...sources] = parsed.words;
  if (action !== "check" && action !== "show") {
    throw new UserError(
      action === undefined
        ? "data needs to be told what to do: remat data check FILE, or remat data show FILE"
        : `data has no action ${JSON.stringify(action)}${suggestion(action, words)}`,
    );
  }
  if (sources.length === 0) throw new UserError(`data ${action} takes files, folders or patterns, got none`);
  const config = validateConfig(flags, parsed.values);
  const model = config.model === undefined ? null : await openSampler(config.model, config);
  const mapping = readMapping(config);
  if (action === "check") {
    const files = sources.flatMap(allFiles);
    const isOneFile = files.length === 1 && sources[0] === files[0];
    let code = 0;
    for (const path of files) code = Math.max(code, await check(path, config, { mapping, model, named: !isOneFile }));
    return code;
  }
  if (model === null) throw new UserError("data show needs --model, whose tokenizer and chat template are used");
  const files = sources.flatMap((source) => parseSources(source).flatMap(({ path }) => trainingFiles(path)));
  return show(files, config, mapping, model);
}

interface Sampling {
  readonly tokenizer: Tokenizer;
  readonly maker: ReturnType<typeof createSampleMaker>;
  readonly sequenceLength: number;
}

async function openSampler(model: string, config: Flags): Promise<Sampling> {
  const { folder } = await findModel({ model });
  const modelConfig = loadConfig(folder);
  const tokenizer = withChatSettings(loadTokenizer(folder), config);
  const eosId = modelConfig.eosTokenIds[0] ?? null;
  // Over-long examples are to be reported, not refused.
  const maker = createSampleMaker(tokenizer, {
    maxLength: Number.MAX_SAFE_INTEGER,
    vocabSize: modelConfig.vocabSize,
    surround: modelConfig.encoder !== null,
    eosId,
  });
  return { tokenizer, maker, sequenceLength: sequenceLengthOf(config, contextLimit(modelConfig)) };
}

/** @param how `named`: whether the file's name is said too */
async function check(
  file: string,
  config: Flags,
  { mapping, model, named }: { readonly mapping: Mapping; readonly model: Sampling | null; readonly named: boolean },
): Promise<number> {
  const maxLength = model?.sequenceLength ?? Number.MAX_SAFE_INTEGER;
  const report = await checkData(file, {
    maxLength,
    mapping,
    listed: config.listed,
    ...(model ? { maker: model.maker } : {}),
  });
  if (config.json) printReport(report);
  else showReport(report, model, named);
  return report.errors.count > 0 ? 2 : 0;
}

function printReport({ errors, duplicates, overLong, ...report }: DataReport): void {
  const kinds = [
    ["error", errors],
    ["duplicate", duplicates],
    ["over-long", overLong],
  ] as const;
  for (const [kind, { first }] of kinds)
    for (const { where, message } of first) printEvent({ type: "problem", kind, where, message });
  const counts = { errors: errors.count, duplicates: duplicates.count, overLong: overLong.count };
  printEvent({ type: "report", ...report, ...counts });
}

/** @param named whether the file's name is said too */
function showReport(report: DataReport, model: Sampling | null, named: boolean): void {
  if (named) print(`file         ${report.path}`);
  const counts = (of: Readonly<Record<string, number>>) =>
    Object.entries(of)
      .filter(([, count]) => count > 0)
      .map(([name, count]) => `${count} ${name}`)
      .join(", ");
  print(`examples     ${report.examples}${report.examples > 0 ? ` (${counts(report.kinds)})` : ""}`);
  if (Object.keys(report.roles).length > 0) print(`messages     ${counts(report.roles)}`);
  if (report.tokens) {
    const { samples, total, trained, lengths } = report.tokens;
    print(
      `tokens       ${total} in ${samples} samples, ${trained} of them trained on (${((100 * trained) / total).toFixed(1)} %)`,
    );
    const { min, mean, p50, p90, p95, p99, max } = lengths;
    print(`lengths      min ${min}, mean ${mean.toFixed(1)}, 50 % ${p50}, 90 % ${p90}, 95 % ${p95}, 99 % ${p99}, max ${max}`);
  }
  if (Object.keys(report.unused).length > 0) print(`not used     columns of examples: ${counts(quoteUnnamed(report.unused))}`);
  for (const notice of report.notices) print(`notice       ${describeNotice(notice)}`);
  printProblems("errors", report.errors);
  printProblems("duplicates", report.duplicates);
  if (model) printProblems(`over-long`, report.overLong, ` (sequence length ${model.sequenceLength})`);
}

/** A table's column without a name is an empty text. */
function quoteUnnamed(columns: DataReport["unused"]): DataReport["unused"] {
  return Object.fromEntries(Object.entries(columns).map(([name, count]) => [name === "" ? '""' : name, count]));
}

function printProblems(name: string, { count, first }: Problems, note = ""): void {
  print(`${name.padEnd(13)}${count}${note}`);
  for (const { where, message } of first) print(`  ${where}: ${message}`);
  if (count > first.length && first.length > 0) print(`  and ${count - first.length} more`);
}

/** Prints `count` examples of files that follow each other. */
async function show(files: readonly string[], config: Flags, mapping: Mapping, model: Sampling): Promise<number> {
  let left = config.count;
  for (const file of files) {
    const unused = createUnusedCounter();
    for await (const entry of readEntries(file, { mapping, unused: unused.count })) {
      if (left === 0) break;
      if (entry.number < config.from && file === files[0]) continue;
      left--;
      for (const sample of model.maker.samples(entry.parse())) showSample(sample, entry.where, config, model);
    }
    const note = unused.note(file);
    if (note !== null) printNote(note);
    for (const notice of model.maker.notices()) printNote(describeNotice(notice));
  }
  if (left === config.count) throw new UserError(`${files.join(", ")}: no example at or after ${config.from}`);
  return 0;
}

function showSample(sample: Sample, where: string, config: Flags, { tokenizer }: Sampling): void {
  const isDimmed = hasColour(process.stdout);
  const trained = sample.labels.reduce((count, label) => count + Number(label >= 0), 0);
  if (config.json) {
    printEvent({ type: "example", where, tokens: sample.ids.length, trained, parts: sampleParts(tokenizer, sample) });
    return;
  }
  const weights = sample.weights && new Set(sample.weights.filter((_, t) => sample.labels[t]! >= 0));
  const note = weights ? `, with the weights ${[...weights].map((weight) => Number(weight.toPrecision(6))).join(", ")}` : "";
  print(`${where}: ${sample.ids.length} tokens, ${trained} trained on${note}`);
  const parts = sampleParts(tokenizer, sample).map((part) =>
    part.trained ? part.text : isDimmed ? `\x1b[2m${part.text}\x1b[22m` : `[${part.text}]`,
  );
  print(`${parts.join("")}\n`);
}
