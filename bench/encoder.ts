import { join } from "node:path";
import { parseArgs } from "node:util";
import { formatBytes } from "../src/base/bytes.ts";
import { BENCHMARKS, machine, median, ownVersions, versionsText, writeSection } from "./report.ts";

/**
 * Training steps of a text encoder beside sentence-transformers': runs bench/encoder/step.ts and bench/peers/embedder.py in turn, prints medians of
 * rates, processor time and peak memory with their ratios, and writes them into docs/benchmarks.md.
 *
 *     bun bench/encoder.ts --python /path/to/python --rounds 3
 *
 * The Python must have torch, transformers, datasets and sentence-transformers; nothing is installed. Ratios are taken within a round, so that a
 * slow minute of the machine hits all systems of it.
 */
const { values } = parseArgs({
  options: {
    python: { type: "string", default: process.env["PYTHON"] ?? "" },
    rounds: { type: "string", default: "3" },
    steps: { type: "string", default: "4" },
    threads: { type: "string", default: "2" },
    rows: { type: "string", default: "64" },
    length: { type: "string", default: "128" },
    systems: { type: "string", default: "peer,least,share,everything,bf16,wasm" },
    output: { type: "string", default: BENCHMARKS },
  },
});

/** The memory that "share" is given: what is asked of it, as a part of the peer's peak RSS. */
const SHARE = 0.4;
const PEER = "peer";
const SYSTEMS: Readonly<Record<string, { readonly label: string; readonly args: readonly string[] }>> = {
  [PEER]: { label: "sentence-transformers, f32", args: [] },
  least: { label: "Remat, per segment", args: [] },
  share: { label: `Remat, ${SHARE} of the peer's memory given`, args: [] },
  everything: { label: "Remat, everything kept", args: ["--strategy", "off"] },
  bf16: { label: `Remat, products in bf16, ${SHARE} of the peer's memory given`, args: ["--matmul", "bf16"] },
  wasm: { label: "Remat, WebAssembly alone, per segment", args: ["--matmul", "wasm"] },
};

interface Run {
  readonly tokensPerSecond: number;
  readonly stepCpuSeconds: number;
  readonly peakRss: number;
  readonly loss: number;
  readonly versions?: Readonly<Record<string, string>>;
}

async function run(name: string, peer: Run | undefined): Promise<Run> {
  const { label, args } = SYSTEMS[name]!;
  const common = ["rows", "length", "steps", "threads"].flatMap((key) => [`--${key}`, values[key as "rows"]]);
  const memory = name === "share" || name === "bf16" ? ["--memory", String(Math.floor(SHARE * peer!.peakRss))] : [];
  const script =
    name === PEER
      ? [values.python, join(import.meta.dir, "peers/embedder.py")]
      : [process.execPath, join(import.meta.dir, "encoder/step.ts")];
  const child = Bun.spawn([...script, ...common, ...args, ...memory], { stdout: "pipe", stderr: "pipe" });
  const [output, errors] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  if ((await child.exited) !== 0) throw new Error(`${label} failed:\n${errors}`);
  const json = /\{"(?:versions|tokens)":.*\}/.exec(output)?.[0];
  if (json === undefined) throw new Error(`${label}: expected a line of JSON; got\n${output}`);
  return JSON.parse(json) as Run;
}

const systems = values.systems.split(",").filter((name) => name !== PEER || values.python !== "");
for (const name of systems)
  if (!SYSTEMS[name]) throw new Error(`--systems: one of ${Object.keys(SYSTEMS).join(", ")}; got ${name}`);
const given = systems.find((name) => name === "share" || name === "bf16");
if (given && systems[0] !== PEER) throw new Error(`--systems: ${given} wants ${PEER} first, and --python`);
const rounds: Readonly<Record<string, Run>>[] = [];
for (let round = 1; round <= Number(values.rounds); round++) {
  const found: Record<string, Run> = {};
  for (const name of systems) {
    const result = await run(name, found[PEER]);
    found[name] = result;
    process.stderr.write(
      `round ${round}: ${name}: ${result.tokensPerSecond.toFixed(0)} tokens/s, ${result.stepCpuSeconds.toFixed(2)} CPU s per step, ` +
        `${formatBytes(result.peakRss)}, loss ${result.loss.toFixed(4)}\n`,
    );
  }
  rounds.push(found);
}

type Measure = "tokensPerSecond" | "stepCpuSeconds" | "peakRss";
/** The median of a measure, in brackets that of its ratios to the peer within the rounds. */
function cell(name: string, key: Measure, text: (value: number) => string): string {
  const value = text(median(rounds.map((round) => round[name]![key])));
  if (systems[0] !== PEER || name === PEER) return value;
  const ratios = rounds.map((round) => round[name]![key] / round[PEER]![key]);
  return `${value} (${median(ratios).toFixed(2)}; ${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)})`;
}

const versions = versionsText({ ...ownVersions(), ...rounds[0]![PEER]?.versions });
const lines = [
  `${machine()}, ${values.threads} threads; ${versions}; ${values.rounds} rounds of ${values.steps} steps, the first of which is left out.`,
  "",
  `All weights of all-MiniLM-L6-v2's shape, ${values.rows} texts of ${values.length} tokens in a micro-batch, f32. In brackets: ratio to the peer, median, least and greatest.`,
  "",
  "| system | tokens/s | CPU s per step | peak RSS |",
  "| --- | --- | --- | --- |",
  ...systems.map((name) => {
    const cells = [
      SYSTEMS[name]!.label,
      cell(name, "tokensPerSecond", (rate) => rate.toFixed(0)),
      cell(name, "stepCpuSeconds", (seconds) => seconds.toFixed(2)),
      cell(name, "peakRss", formatBytes),
    ];
    return `| ${cells.join(" | ")} |`;
  }),
];
console.log(lines.join("\n"));
writeSection(values.output, "encoder", lines);
