/**
 * Tokens per second of decoding, against the bound that memory sets: every token reads all weights once, so no decoder is
 * faster than (bytes per second that the threads read) / (bytes of the weights and of the cache so far).
 *
 *     bun bench/decode.ts [smollm2-135m|qwen2.5-0.5b] [f32|bf16|f16|q8|nf4|q8-all|nf4-all] [threads] [context] [texts]
 *
 * With several texts that go on together the weights are read once for a token of each.
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

const [shape = "smollm2-135m", dtype = "bf16", threads = "2", context = "128", texts = "1"] = process.argv.slice(2);
const config = shapeConfig(shape as ShapeName);
const { stored, ...storage } = storageOf(dtype);
const source = randomCheckpoint(config, stored);
const length = Number(context);
const count = Number(texts);
const cache = 2 * 4 * config.layers * config.kvHeads * config.headDim * length * count;

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
const loadBegin = performance.now();
const decoders = createDecoders(executor, { config, source, maxTokens: length + 64, ...storage }, count);
const loadSeconds = (performance.now() - loadBegin) / 1000;
const tuning = NO_TUNING;
const segments = buildSegments(config, { tokens: 1, tuning, weightType: weightTypeOf(executor, source, storage) });
const weights = residentBytes(collectParams(segments), null).frozen;
const ids = Array.from({ length }, (_, i) => (i * 37) % config.vocabSize);
const begin = performance.now();
decoders.each[0]!.feed(ids);
const promptSeconds = (performance.now() - begin) / 1000;
const all = new Map(decoders.each.keys().map((text) => [text, ids]));
decoders.feed(all);
profile.clear();
const read = reader(executor);
const tokenTimes: number[] = [];
const readTimes: number[] = [];
// In turn, because the memory's speed changes from second to second on a shared machine.
for (let round = 0; round < 15; round++) {
  readTimes.push(time(read, 0.1).median);
  // The last token alone is computed again and again.
  tokenTimes.push(time(() => decoders.feed(all), 0.2).median);
}
const bandwidth = READ_BYTES / median(readTimes);
const bound = (count * bandwidth) / (weights + cache);
const rate = count / median(tokenTimes);
console.log(
  `${shape} ${dtype}, ${threads} threads, ${count > 1 ? `${count} texts of ` : ""}${length} tokens of context: ${(weights / 1e6).toFixed(0)} MB of weights, loaded in ${loadSeconds.toFixed(2)} s`,
);
console.log(`reading    ${(bandwidth / 1e9).toFixed(1)} GB/s, a bound of ${bound.toFixed(1)} tokens/s`);
console.log(`decoding   ${rate.toFixed(1)} tokens/s, ${((100 * rate) / bound).toFixed(0)} % of the bound (medians of 15 turns)`);
console.log(`prompt     ${length} tokens in ${promptSeconds.toFixed(2)} s, ${(length / promptSeconds).toFixed(0)} tokens/s`);
for (const [name, seconds] of [...profile].sort((a, b) => b[1] - a[1])) console.log(`${name.padEnd(32)}${seconds.toFixed(3)} s`);
executor.close();
