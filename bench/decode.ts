/**
 * Tokens per second of decoding, against the bound that memory sets: every token reads all weights once, so no decoder is
 * faster than (bytes per second that the threads read) / (bytes of the weights and of the cache so far).
 *
 *     bun bench/decode.ts [smollm2-135m|qwen2.5-0.5b] [f32|bf16|f16|q8|nf4|q8-all|nf4-all] [threads] [context] [texts]
 *
 * With several texts that go on together the weights are read once for a token of each. Several types of weights, as in `bf16,nf4`, take turns; the exit code is 1
 * where NF4 has less than 110 tokens to bf16's 120, which is promised on one text.
 */
import { NO_TUNING } from "../src/models/tuning.ts";
import { GraphBuilder } from "../src/graph/builder.ts";
import type { Graph, Node } from "../src/graph/types.ts";
import { createDecoders } from "../src/generate/open-decoder.ts";
import { buildSegments } from "../src/models/chain/segments.ts";
import { SumSquares } from "../src/ops/sum-squares.ts";
import type { Executor } from "../src/runtime/executor.ts";
import { collectParams, residentBytes } from "../src/runtime/resident.ts";
import { weightTypeOf } from "../src/load/weights.ts";
import { createWasmExecutor } from "../src/wasm/executor.ts";
import { randomCheckpoint, shapeConfig, type ShapeName, storageOf } from "./shapes.ts";
import { median } from "./report.ts";
import { time } from "./time.ts";

const [shape = "smollm2-135m", dtypes = "bf16", threads = "2", context = "128", texts = "1"] = process.argv.slice(2);
const config = shapeConfig(shape as ShapeName);
const length = Number(context);
const count = Number(texts);
const cache = 2 * 4 * config.layers * config.kvHeads * config.headDim * length * count;
/** Of bf16's rate. */
const PROMISED_OF_NF4 = 110 / 120;

const READ_BYTES = 1 << 28;
/** Reads 256 MB, by a kernel that does little else: a sum of squares. */
function reader(executor: Executor): () => void {
  const words = READ_BYTES / 4;
  const builder = new GraphBuilder("read");
  builder.input("x", "param", { dtype: "f32", shape: [words] });
  builder.output({ name: builder.value(SumSquares, ["x"], {}, "sum"), role: "loss" });
  const program = executor.prepare(builder.build());
  const x = executor.reserve(4 * words);
  executor.zero(x, 4 * words);
  const addresses = new Map([
    ["x", x],
    ["sum", executor.reserve(64)],
  ]);
  const call = executor.bind(program, addresses, executor.reserve(program.workspace));
  return () => executor.run(call);
}

const profile = new Map<string, number>();
const record = (node: Node | null, seconds: number, graph: Graph) => {
  const name = `${graph.name} ${node?.op ?? "copy"}`;
  profile.set(name, (profile.get(name) ?? 0) + seconds);
};
const isProfiled = process.env["PROFILE"] === "1";
const executor = await createWasmExecutor({
  threads: Number(threads),
  matmul: process.env["MATMUL"] === "wasm" ? "wasm" : "codes",
  ...(isProfiled ? { profile: record } : {}),
});

interface Run {
  readonly dtype: string;
  readonly weights: number;
  readonly loadSeconds: number;
  readonly promptSeconds: number;
  /** Feeds one more token of each text, always the same one. */
  feed(): void;
  readonly times: number[];
}

const ids = Array.from({ length }, (_, i) => (i * 37) % config.vocabSize);

function open(dtype: string): Run {
  const { stored, ...storage } = storageOf(dtype);
  const source = randomCheckpoint(config, stored);
  const loadBegin = performance.now();
  const decoders = createDecoders(executor, { config, source, maxTokens: length + 64, ...storage }, count);
  const loadSeconds = (performance.now() - loadBegin) / 1000;
  const segments = buildSegments(config, { tokens: 1, tuning: NO_TUNING, weightType: weightTypeOf(executor, source, storage) });
  const weights = residentBytes(collectParams(segments), null).frozen;
  const begin = performance.now();
  decoders.each[0]!.feed(ids);
  const promptSeconds = (performance.now() - begin) / 1000;
  const all = new Map(decoders.each.keys().map((text) => [text, ids]));
  decoders.feed(all);
  return { dtype, weights, loadSeconds, promptSeconds, feed: () => decoders.feed(all), times: [] };
}

const runs = dtypes.split(",").map(open);
profile.clear();
const read = reader(executor);
const readTimes: number[] = [];
// In turn, because the memory's speed changes from second to second on a shared machine.
for (let round = 0; round < 15; round++) {
  readTimes.push(time(read, 0.1).median);
  for (const { feed, times } of runs) times.push(time(feed, 0.2).median);
}
const bandwidth = READ_BYTES / median(readTimes);
console.log(`reading    ${(bandwidth / 1e9).toFixed(1)} GB/s`);
const rateOf = ({ times }: Run) => count / median(times);
for (const run of runs) {
  const { dtype, weights, loadSeconds, promptSeconds } = run;
  const bound = (count * bandwidth) / (weights + cache);
  const rate = rateOf(run);
  console.log(
    `${shape} ${dtype}, ${threads} threads, ${count > 1 ? `${count} texts of ` : ""}${length} tokens of context: ${(weights / 1e6).toFixed(0)} MB of weights, loaded in ${loadSeconds.toFixed(2)} s`,
  );
  console.log(
    `decoding   ${rate.toFixed(1)} tokens/s, ${((100 * rate) / bound).toFixed(0)} % of a bound of ${bound.toFixed(1)} (medians of 15 turns)`,
  );
  console.log(`prompt     ${length} tokens in ${promptSeconds.toFixed(2)} s, ${(length / promptSeconds).toFixed(0)} tokens/s`);
}
for (const [name, seconds] of [...profile].sort((a, b) => b[1] - a[1])) console.log(`${name.padEnd(32)}${seconds.toFixed(3)} s`);
executor.close();
const [bf16, nf4] = ["bf16", "nf4"].map((dtype) => runs.find((run) => run.dtype === dtype));
if (bf16 && nf4 && count === 1) {
  const ratio = rateOf(nf4) / rateOf(bf16);
  const isKept = ratio >= PROMISED_OF_NF4;
  console.log(
    `${isKept ? "kept" : "BROKEN"}: NF4 decodes ${ratio.toFixed(2)} times as fast as bf16 (${PROMISED_OF_NF4.toFixed(2)} at least)`,
  );
  if (!isKept) process.exitCode = 1;
}
