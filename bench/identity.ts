import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { commitOf, plantCosts, remat } from "./checkout.ts";
import { type Case, CASES, writeInputs } from "./identity/cases.ts";
import { compareFolders, type Mode } from "./identity/compare.ts";
import { machine } from "./report.ts";

/**
 * True if two checkouts compute the same, to the bit: the bundled example and four smaller runs (all weights; quantised with a
 * limit of memory and offload; DoRA; a packed Gemma) are trained, merged and exported by the command line of each, and what they
 * write is compared: adapters, models, GGUF, metrics but for times, segment models, checkpoints. A schedule that is planned by
 * measured times gets those of the first checkout in both.
 *
 *     bun bench/identity.ts OLD NEW                    both are checkouts, installed and built
 *     bun bench/identity.ts OLD --record FOLDER        keeps what OLD writes
 *     bun bench/identity.ts FOLDER NEW                 compares with what was kept
 *     bun bench/identity.ts FOLDER NEW --tensors       tensors by name and recorded values alone, whatever the files are like
 *
 * `--only NAME,NAME` takes some of the cases; without it the bundled example is the longest one, a minute and a half on 2 cores.
 * Exit code 1 when something is not the same.
 */
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    record: { type: "string" },
    tensors: { type: "boolean", default: false },
    only: { type: "string" },
  },
});
if (positionals.length !== (values.record === undefined ? 2 : 1))
  throw new Error("expected two checkouts or records, or one checkout and --record FOLDER");

/** Says what a record was made with. */
const RECORD = "identity.json";

/** The folder in which every run is made, so that paths in files are the same. */
const WORK = join(tmpdir(), "remat-identity");

const wanted = values.only?.split(",") ?? CASES.map(({ name }) => name);
for (const name of wanted) {
  if (!CASES.some((one) => one.name === name))
    throw new Error(`--only: expected names of ${CASES.map((one) => one.name).join(", ")}, got ${name}`);
}
const cases = CASES.filter(({ name }) => wanted.includes(name));

/** Processor, cores and memory: measured times are known for one device. */
const device = machine().replace(/^[^,]*, /, "");

/** Describes what a checkout has written, a folder for each case. */
interface Side {
  readonly label: string;
  readonly folder: string;
}

async function runCase(checkout: string, one: Case, costs: string): Promise<void> {
  const run = join(WORK, one.name, "run");
  const train = ["train", ...one.train, "--output", `${one.name}/run`, "--overwrite", "--json"];
  mkdirSync(join(WORK, one.name), { recursive: true });
  if (one.measured) {
    if (!existsSync(costs)) {
      await remat(checkout, [...train, "--steps", "1"], WORK);
      cpSync(join(run, "costs.json"), costs);
    }
    plantCosts(run, costs);
  }
  const { stdout } = await remat(checkout, train, WORK);
  const samples = stdout.split("\n").filter((line) => line.startsWith('{"type":"sample"'));
  if (samples.length > 0) writeFileSync(join(WORK, one.name, "events.jsonl"), `${samples.join("\n")}\n`);
  for (const args of one.after) await remat(checkout, args, WORK);
}

/** Makes all runs of a checkout with the inputs and measured times in `source`, and leaves them in `target`. */
async function runAll(checkout: string, source: string, target: string): Promise<void> {
  if (existsSync(WORK)) throw new Error(`${WORK} is there: another comparison is under way, or one was killed; remove it then`);
  try {
    for (const one of cases) {
      const begin = performance.now();
      mkdirSync(join(WORK, "store"), { recursive: true });
      cpSync(join(source, "inputs"), join(WORK, "inputs"), { recursive: true });
      await runCase(checkout, one, join(source, `${one.name}-costs.json`));
      cpSync(join(WORK, one.name), join(target, one.name), { recursive: true });
      rmSync(WORK, { recursive: true });
      process.stderr.write(`${checkout}: ${one.name} in ${((performance.now() - begin) / 1000).toFixed(0)} s\n`);
    }
  } finally {
    rmSync(WORK, { recursive: true, force: true });
  }
}

/** Makes a record of a checkout. */
async function record(checkout: string, folder: string): Promise<Side> {
  const label = `${checkout} (${commitOf(checkout)})`;
  if (existsSync(folder)) throw new Error(`${folder} is there: choose a new folder`);
  writeInputs(join(folder, "inputs"));
  await runAll(checkout, folder, folder);
  writeFileSync(join(folder, RECORD), `${JSON.stringify({ label, device, work: WORK }, null, 2)}\n`);
  return { label, folder };
}

function readRecord(folder: string): Side {
  const { label, ...made } = JSON.parse(readFileSync(join(folder, RECORD), "utf8")) as Record<
    "label" | "device" | "work",
    string
  >;
  if (made.device !== device || made.work !== WORK)
    throw new Error(`${folder} was made on ${made.device} in ${made.work}; this is ${device}, ${WORK}: make it again here`);
  return { label, folder };
}

const isRecord = (path: string): boolean => existsSync(join(path, RECORD));

async function compare(first: string, second: string, scratch: string): Promise<void> {
  const mode: Mode = values.tensors ? "tensors" : "bytes";
  const left = isRecord(first) ? readRecord(first) : await record(first, join(scratch, "first"));
  let right: Side;
  if (isRecord(second)) right = readRecord(second);
  else {
    right = { label: `${second} (${commitOf(second)})`, folder: join(scratch, "second") };
    await runAll(second, left.folder, right.folder);
  }
  console.log(`${left.label} and ${right.label}, ${mode === "bytes" ? "byte for byte" : "tensor by tensor"}:`);
  for (const { name, measured } of cases) {
    const { files, passedOver, differences } = compareFolders(join(left.folder, name), join(right.folder, name), mode, measured);
    const besides = passedOver.length > 0 ? `, ${passedOver.length} that only say how things are laid out not compared` : "";
    console.log(`  ${name}: ${files} files compared${besides}, ${differences.length} differences`);
    for (const difference of differences) console.log(`    ${difference}`);
    if (differences.length > 0 || files === 0) process.exitCode = 1;
  }
}

const [first, second] = positionals.map((path) => resolve(path)) as [string, string | undefined];
if (second === undefined) {
  const { label, folder } = await record(first, resolve(values.record!));
  console.log(`${label}: kept in ${folder}`);
} else {
  const scratch = `${WORK}-${process.pid}`;
  try {
    await compare(first, second, scratch);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
