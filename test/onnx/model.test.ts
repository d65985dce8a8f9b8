import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { UserError } from "../../src/base/errors.ts";
import { GraphBuilder } from "../../src/graph/builder.ts";
import type { Graph, TensorType } from "../../src/graph/types.ts";
import { type ModelProto, ModelProtoSchema } from "../../src/onnx/gen/onnx_pb.ts";
import { readModel } from "../../src/onnx/read.ts";
import { writeModel } from "../../src/onnx/write.ts";
import { SwiGLU, SwiGLUGrad } from "../../src/ops/swiglu.ts";
import { expectWithin, generator, random, relativeError } from "../support/ops.ts";
import { runOrt } from "../support/ort.ts";

setDefaultTimeout(120_000);

const type: TensorType = { dtype: "f32", shape: [3, 5] };
const other: TensorType = { dtype: "f32", shape: [2, 7] };

/** Two calls of one function, one of another type, and a gradient of which only the second output is wanted. */
function sample(): Graph {
  const builder = new GraphBuilder("block");
  builder.input("gate", "boundary", type);
  builder.input("up", "param", type);
  builder.input("acc.up", "accumulator", type);
  builder.input("small", "batch", other);
  const once = builder.value(SwiGLU, ["gate", "up"], {}, "once");
  const twice = builder.value(SwiGLU, [once, "acc.up"], {}, "twice");
  const second = builder.value(SwiGLU, ["small", "small"], {}, "small.gated");
  const [, gradient] = builder.node(SwiGLUGrad, ["gate", twice, once], {}, "d.gate");
  builder.output({ name: twice, role: "boundary" });
  builder.output({ name: second, role: "tape" });
  builder.output({ name: gradient!, role: "param-grad", updates: "acc.up" });
  return builder.build();
}

const FILE = "folder/block.forward.onnx";
const bytes = writeModel(sample());

function edited(edit: (model: ModelProto) => void): Uint8Array {
  const model = fromBinary(ModelProtoSchema, bytes);
  edit(model);
  return toBinary(ModelProtoSchema, model);
}

describe("an ONNX segment model", () => {
  test("gives its graph back, and equal graphs have equal bytes", () => {
    expect(readModel(bytes, FILE)).toEqual(sample());
    expect(writeModel(readModel(bytes, FILE))).toEqual(bytes);
  });

  test("has one function per operator, types and wanted outputs", () => {
    const { functions } = fromBinary(ModelProtoSchema, bytes);
    expect(functions.map(({ name, overload }) => [name, overload])).toEqual([
      ["SwiGLU", ""],
      ["SwiGLU", "2"],
      ["SwiGLUGrad", ""],
    ]);
    // dup = dy * gate * sigmoid(gate) needs three nodes; those of dgate are not there.
    expect(functions[2]!.node.map((node) => node.opType)).toEqual(["Sigmoid", "Mul", "Mul", "Constant"]);
  });

  test("runs on ONNX Runtime, optimized or not", async () => {
    const rng = generator(1);
    const graph = sample();
    const inputs = new Map(graph.inputs.map(({ name }) => [name, random(rng, graph.types.get(name)!.shape).data]));
    const silu = (x: number) => x / (1 + Math.exp(-x));
    const expected = Array.from(inputs.get("small")!, (x) => silu(x) * x);
    for (const optimize of [false, true]) {
      const outputs = await runOrt(graph, inputs, optimize);
      expect([...outputs.keys()]).toEqual(["twice", "small.gated", "d.gate.1"]);
      expectWithin("SwiGLU", relativeError(outputs.get("small.gated") as Float32Array, expected), 1e-6);
    }
  });

  test("refuses a node whose outputs nobody uses", () => {
    const graph = sample();
    const unused = { ...graph, outputs: graph.outputs.slice(1) };
    expect(() => writeModel({ ...unused, outputs: unused.outputs.filter((output) => output.role === "tape") })).toThrow(
      "prune the graph first",
    );
  });
});

describe("a damaged or foreign file gives one clear error", () => {
  const cases: [why: string, bytes: Uint8Array, message: string][] = [
    ["empty", new Uint8Array(), "it holds no graph"],
    ["truncated", bytes.slice(0, -100), "is not a segment model that can be read"],
    ["of another program", edited((model) => (model.metadataProps = [])), "it was not written by Remat"],
    ["of a later format", edited((model) => (model.metadataProps[0]!.value = "2")), 'its format is version "2", not 1'],
    ["of another opset", edited((model) => (model.opsetImport[0]!.version = 17n)), "it does not use version 23"],
    ["with an unknown operator", edited((model) => (model.graph!.node[0]!.opType = "Loop")), "no function for the operator Loop"],
    [
      "with an unknown standard operator",
      edited((model) => Object.assign(model.graph!.node[0]!, { opType: "Loop", domain: "" })),
      'it uses the operator "" "Loop", which is unknown here',
    ],
    ["with a missing input", edited((model) => void model.graph!.input.pop()), '"small", which nothing computes before it'],
    ["with a missing node", edited((model) => void model.graph!.node.shift()), '"once", which nothing computes before it'],
    [
      "with a wrong shape",
      edited((model) => (model.graph!.output[1]!.type!.value = model.graph!.output[0]!.type!.value)),
      "is declared as f32[3, 5]",
    ],
    ["without roles", edited((model) => (model.graph!.input[0]!.metadataProps = [])), '"gate" has no known remat.role'],
  ];
  test.each(cases)("%s", (_, damaged, message) => {
    let error: unknown;
    try {
      readModel(damaged, FILE);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(UserError);
    expect((error as Error).message).toStartWith(`${FILE} is not a segment model that can be read: `);
    expect((error as Error).message).toContain(message);
  });
});
