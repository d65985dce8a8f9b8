import { opOf } from "../../src/ops/index.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import { runOn } from "./executor.ts";
import { f32, generator, i32, opGraph, random } from "./ops.ts";

/**
 * `bun test/support/attention-memory.ts TOKENS HEADS DIM` prints the most bytes of temporary memory that attention and its
 * gradient had in use on ONNX Runtime's CPU provider. ONNX Runtime has one arena per process, so this is a process of its own.
 */
const [tokens, heads, dim] = process.argv.slice(2).map(Number) as [number, number, number];
const executor = createOrtExecutor({ threads: 1 });
const rng = generator(3);
const matrix = () => random(rng, [tokens, heads * dim]);
const run = (op: "Attention" | "AttentionGrad", inputs: Parameters<typeof opGraph>[0]["inputs"]) => {
  const { builder, outputs, feeds } = opGraph({ op: opOf({ op }), inputs, attrs: { heads, kvHeads: heads, scale: 0.3 } });
  for (const name of outputs) builder.output({ name, role: "boundary" });
  return [...runOn(executor, builder.build(), feeds).values()] as Float32Array[];
};
const inputs = [matrix(), matrix(), matrix(), i32([tokens], new Int32Array(tokens))];
const [out, lse] = run("Attention", inputs);
const forward = executor.arena().peak;
run("AttentionGrad", [...inputs, f32([tokens, heads * dim], out!), f32([tokens, heads], lse!), matrix()]);
console.log(JSON.stringify({ forward, backward: executor.arena().peak }));
executor.close();
