/**
 * Memory-bound operators on 4 Mi elements, beside a plain copy (`Identity`) in the same process and minute.
 *
 *     bun bench/memory-ops.ts [threads ...]
 *
 * GB/s counts each input and output once. Best of 20 runs.
 */
import { GraphBuilder } from "../src/graph/builder.ts";
import { type Attrs, byteLength, elements, type TensorType } from "../src/graph/types.ts";
import { type DType } from "../src/base/dtype.ts";
import { AdamW } from "../src/ops/adamw.ts";
import { AdamW8bit, CODES_BLOCK } from "../src/ops/adamw-8bit.ts";
import { Add } from "../src/ops/add.ts";
import { Cast, CAST_TO } from "../src/ops/cast.ts";
import { ColumnSum } from "../src/ops/column-sum.ts";
import { PhiloxDropout } from "../src/ops/dropout.ts";
import { EmbeddingGrad } from "../src/ops/embedding-grad.ts";
import { Gather } from "../src/ops/gather.ts";
import { Gelu, GeluGrad } from "../src/ops/gelu.ts";
import { Identity } from "../src/ops/identity.ts";
import { Lion } from "../src/ops/lion.ts";
import { Mul } from "../src/ops/mul.ts";
import { CausalConv, CausalConvGrad } from "../src/ops/causal-conv.ts";
import { LayerNormalization, LayerNormGrad } from "../src/ops/layer-norm.ts";
import { RMSNormalization, RMSNormGrad } from "../src/ops/rms-norm.ts";
import { Sgd } from "../src/ops/sgd.ts";
import { SumSquares } from "../src/ops/sum-squares.ts";
import { SwiGLU, SwiGLUGrad } from "../src/ops/swiglu.ts";
import type { OpDef } from "../src/ops/types.ts";
import { createWasmExecutor, type WasmExecutor } from "../src/wasm/executor.ts";

const ROWS = 2048;
const COLUMNS = 2048;
const VOCAB = 8192;

const tensor = (dtype: DType, ...shape: number[]): TensorType => ({ dtype, shape });
const x = tensor("f32", ROWS, COLUMNS);
const scale = tensor("f32", COLUMNS);
const table = tensor("f32", VOCAB, COLUMNS);
const filters = tensor("f32", COLUMNS, 1, 3);
const ids = tensor("i32", ROWS);
const flat = tensor("f32", ROWS * COLUMNS);
const codes = tensor("u8", ROWS * COLUMNS);
const scales = tensor("f32", (ROWS * COLUMNS) / CODES_BLOCK);
const norm = { axis: -1, epsilon: 1e-5 };

interface Case {
  readonly label: string;
  readonly op: OpDef<any>;
  readonly inputs: readonly TensorType[];
  readonly attrs: Attrs;
}

const of = (op: OpDef<any>, inputs: readonly TensorType[], attrs: Attrs = {}, label = op.name): Case => ({
  label,
  op,
  inputs,
  attrs,
});

const CASES: readonly Case[] = [
  of(Identity, [x]),
  of(Add, [x, x]),
  of(Mul, [x, x]),
  of(Cast, [tensor("bf16", ROWS, COLUMNS)], { to: CAST_TO.f32 }, "Cast from bf16"),
  of(Cast, [tensor("f16", ROWS, COLUMNS)], { to: CAST_TO.f32 }, "Cast from f16"),
  of(SwiGLU, [x, x]),
  of(SwiGLUGrad, [x, x, x]),
  of(Gelu, [x], { approximate: "none" }),
  of(GeluGrad, [x, x], { approximate: "none" }),
  of(Gelu, [x], { approximate: "tanh" }, "Gelu tanh"),
  of(GeluGrad, [x, x], { approximate: "tanh" }, "GeluGrad tanh"),
  of(RMSNormalization, [x, scale], norm),
  of(RMSNormGrad, [x, x, scale], norm),
  of(LayerNormalization, [x, scale, scale], norm),
  of(LayerNormGrad, [x, x, scale], norm),
  of(CausalConv, [x, filters, ids]),
  of(CausalConvGrad, [x, x, filters, ids]),
  of(ColumnSum, [x]),
  of(SumSquares, [x]),
  of(Gather, [table, ids]),
  of(EmbeddingGrad, [ids, x, table], { vocab: VOCAB }),
  of(PhiloxDropout, [x, tensor("i32", 2), tensor("i32", 1)], { probability: 0.1, site: 0 }),
  of(AdamW, [x, x, x, x, tensor("f32", 8)]),
  of(AdamW8bit, [flat, flat, codes, codes, scales, scales, tensor("f32", 520)]),
  of(Lion, [x, x, x, tensor("f32", 5)]),
  of(Sgd, [x, x, x, tensor("f32", 6)]),
];

/** Milliseconds and bytes of one run. */
function measure(executor: WasmExecutor, base: number, { op, inputs, attrs }: Case): { ms: number; bytes: number } {
  const builder = new GraphBuilder(op.name);
  const names = inputs.map((type, i) => builder.input(`in${i}`, "batch", type));
  for (const name of builder.node(op, names, attrs, "out")) builder.output({ name, role: "boundary" });
  const graph = builder.build();
  const program = executor.prepare(graph);
  const addresses = new Map<string, number>();
  let at = base;
  let bytes = 0;
  for (const { name } of [...graph.inputs, ...graph.outputs]) {
    const type = graph.types.get(name)!;
    const sum =
      op.accumulates && name === graph.outputs[op.accumulates.output]!.name
        ? addresses.get(`in${op.accumulates.input}`)
        : undefined;
    addresses.set(name, sum ?? at);
    // Positive everywhere: the optimizer takes roots. Ids differ.
    const values = Float32Array.from({ length: Math.ceil(byteLength(type) / 4) }, (_, i) => 0.1 + (i % 977) / 977);
    const data = type.dtype === "i32" ? Int32Array.from({ length: elements(type.shape) }, (_, i) => (i * 4099) % VOCAB) : values;
    executor.write(at, new Uint8Array(data.buffer, 0, byteLength(type)));
    at += Math.ceil(byteLength(type) / 64) * 64;
    // Of a table, only the rows of the ids are touched.
    bytes += byteLength(type.shape[0] === VOCAB ? x : type);
  }
  const call = executor.bind(program, addresses, at);
  const time = (): number => {
    const start = performance.now();
    executor.run(call);
    return performance.now() - start;
  };
  // The compiler's last tier takes over while the kernel runs.
  for (const until = performance.now() + 300; performance.now() < until;) time();
  return { ms: Math.min(...Array.from({ length: 20 }, time)), bytes };
}

const threadCounts = process.argv.slice(2).map(Number);
for (const threads of threadCounts.length ? threadCounts : [1]) {
  const executor = await createWasmExecutor({ threads });
  const base = executor.reserve(1 << 28);
  console.log(`\n${threads} thread${threads > 1 ? "s" : ""}`.padEnd(20) + "      ms    GB/s");
  for (const one of CASES) {
    const { ms, bytes } = measure(executor, base, one);
    console.log(one.label.padEnd(18) + ms.toFixed(2).padStart(9) + (bytes / ms / 1e6).toFixed(1).padStart(8));
  }
  executor.close();
}
