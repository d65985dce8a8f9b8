import { fromFloat32 } from "../src/base/float16.ts";
import { createRandom } from "../src/base/random.ts";
import { GraphBuilder } from "../src/graph/builder.ts";
import { type Attrs, byteLength, elements, type TensorType } from "../src/graph/types.ts";
import { Cast, CAST_TO } from "../src/ops/cast.ts";
import { Dequantize, quantisedTypes } from "../src/ops/dequantize.ts";
import type { OpDef } from "../src/ops/types.ts";
import type { WasmExecutor } from "../src/wasm/executor.ts";

/** A graph of one operator on its own memory, filled with numbers in [-0.5, 0.5) or with labels below `labels`. A matrix of i8 is codes, with scales of their own. */
export function callOf<A extends Attrs>(
  executor: WasmExecutor,
  op: OpDef<A>,
  inputs: readonly TensorType[],
  attrs: A,
  options: {
    readonly labels?: number;
    readonly inPlace?: readonly [output: number, input: number];
    /** The outputs that are wanted; all by default. */
    readonly outputs?: readonly number[];
  } = {},
): () => void {
  const builder = new GraphBuilder(op.name);
  const random = createRandom(1);
  const addresses = new Map<string, number>();
  const names = inputs.map((type, i) => builder.input(`in${i}`, "batch", type));
  const write = (name: string): void => {
    const type = builder.type(name);
    const address = executor.reserve(byteLength(type));
    addresses.set(name, address);
    const size = elements(type.shape);
    const values = Float32Array.from({ length: size }, () => random.uniform() - 0.5);
    if (type.dtype === "i32") {
      const labels = Int32Array.from({ length: size }, (_, j) => (j * 7919) % options.labels!);
      executor.write(address, new Uint8Array(labels.buffer));
    } else if (type.dtype === "i8") {
      executor.write(address, new Uint8Array(Int8Array.from(values, (value) => Math.round(254 * value)).buffer));
    } else {
      executor.write(address, type.dtype === "f32" ? new Uint8Array(values.buffer) : fromFloat32(values, type.dtype as "bf16"));
    }
  };
  names.forEach(write);
  const operands = names.map((name, i) => {
    const { dtype, shape } = inputs[i]!;
    if (dtype === "i8") {
      const scales = builder.input(`in${i}.scales`, "batch", quantisedTypes("q8", shape as [number, number]).scales);
      write(scales);
      return builder.value(Dequantize, [name, scales], {});
    }
    return dtype === "bf16" || dtype === "f16" ? builder.value(Cast, [name], { to: CAST_TO.f32 }) : name;
  });
  const outputs = builder.node(op, operands, attrs, "out");
  outputs.forEach((name, i) => {
    if (options.outputs?.includes(i) === false) return;
    builder.output({ name, role: "boundary" });
    const shared = options.inPlace?.[0] === i ? names[options.inPlace[1]]! : null;
    addresses.set(name, shared === null ? executor.reserve(byteLength(builder.type(name))) : addresses.get(shared)!);
  });
  const program = executor.prepare(builder.build());
  const call = executor.bind(program, addresses, executor.reserve(program.workspace));
  return () => executor.run(call);
}
