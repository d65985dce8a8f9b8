/**
 * One layer of a Qwen3.5-0.8B that keeps a state: forward and backward, all weights trained, beside Transformers' on the same threads; the bytes
 * that its backward needs of its forward, beside the states that the recurrence keeps token by token.
 *
 *     [PYTHON=...] bun bench/delta.ts [--tokens 2048] [--threads 2] [--matmul auto]
 *
 * Least processor and wall-clock seconds of some rounds.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { byteLength, type Graph, typeOf } from "../src/graph/types.ts";
import { buildSegments } from "../src/models/chain/segments.ts";
import { createWasmExecutor } from "../src/wasm/executor.ts";
import type { MatmulChoice } from "../src/wasm/matmul.ts";
import { shapeConfig } from "./shapes.ts";

const { values } = parseArgs({
  options: {
    tokens: { type: "string", default: "2048" },
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "3" },
    matmul: { type: "string", default: "auto" },
  },
});
const tokens = Number(values.tokens);
const config = shapeConfig("qwen3.5-0.8b", 1);
const [, block] = buildSegments(config, { tokens, tuning: { method: "full" }, weightType: () => "f32" });
const { taped, backward, tape } = block!.model.training!;

const executor = await createWasmExecutor({ threads: Number(values.threads), matmul: values.matmul as MatmulChoice });
const addresses = new Map<string, number>();
for (const graph of [taped, backward]) {
  for (const { name } of [...graph.inputs, ...graph.outputs]) {
    if (addresses.has(name)) continue;
    const { dtype, shape } = typeOf(graph, name);
    const bytes = byteLength({ dtype, shape });
    const address = executor.reserve(bytes);
    addresses.set(name, address);
    // One text; weights small enough that nothing overflows.
    const size = name === "x" || name.startsWith("d.") ? 1 : 0.05;
    const data =
      dtype === "i32"
        ? new Int32Array(bytes / 4)
        : Float32Array.from({ length: bytes / 4 }, (_, i) => size * Math.sin(i * 12.9898 + 1));
    executor.write(address, new Uint8Array(data.buffer));
  }
}
const workspace = executor.reserve(Math.max(...[taped, backward].map((graph) => executor.prepare(graph).workspace)));
const calls = [taped, backward].map((graph: Graph) => executor.bind(executor.prepare(graph), addresses, workspace));

interface Times {
  readonly seconds: number;
  readonly cpuSeconds: number;
}
const rounds: Times[] = Array.from({ length: Number(values.rounds) + 1 }, () => {
  const [begin, cpu] = [performance.now(), process.cpuUsage()];
  for (const call of calls) executor.run(call);
  const { user, system } = process.cpuUsage(cpu);
  return { seconds: (performance.now() - begin) / 1000, cpuSeconds: (user + system) / 1e6 };
});
const best = (key: keyof Times): number => Math.min(...rounds.map((round) => round[key]));
const ours: Times = { seconds: best("seconds"), cpuSeconds: best("cpuSeconds") };

const bytesOf = (names: readonly string[]): number => names.reduce((sum, name) => sum + byteLength(typeOf(taped, name)), 0);
const kept = bytesOf(tape);
const rule = taped.nodes.find(({ op }) => op === "GatedDelta")!;
const ruleKept = bytesOf([...rule.inputs, ...rule.outputs].filter((name) => tape.includes(name)));
const { heads, keyDim, valueDim } = config.delta!;
// The state before each token, with and without its decay: what autograd keeps of the recurrence.
const unrolled = 2 * 4 * tokens * heads * keyDim * valueDim;
const beside = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(0)} MiB (1/${(unrolled / bytes).toFixed(0)})`;
console.log(`${tokens} tokens, ${values.threads} threads, ${executor.matmul.name} products`);
console.log(
  `states token by token: ${(unrolled / 2 ** 20).toFixed(0)} MiB; kept for the backward: by the rule ${beside(ruleKept)}, by the whole layer ${beside(kept)}`,
);
const line = (name: string, { seconds, cpuSeconds }: Times) =>
  console.log(`${name.padEnd(14)} ${seconds.toFixed(2)} s, ${cpuSeconds.toFixed(2)} s of processors`);
line("Remat", ours);
executor.close();
const python = process.env["PYTHON"];
if (python !== undefined) {
  const args = ["--tokens", values.tokens, "--threads", values.threads, "--rounds", values.rounds];
  const { stdout, exitCode } = Bun.spawnSync([python, join(import.meta.dir, "peers/delta_layer.py"), ...args], {
    stderr: "inherit",
  });
  if (exitCode !== 0) throw new Error("bench/peers/delta_layer.py failed");
  const theirs = JSON.parse(stdout.toString().trim().split("\n").at(-1)!) as Times;
  line("Transformers", theirs);
  console.log(
    `${(theirs.seconds / ours.seconds).toFixed(1)} times as fast, ${(theirs.cpuSeconds / ours.cpuSeconds).toFixed(1)} by processors`,
  );
}
