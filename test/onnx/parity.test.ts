import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readModel } from "../../src/onnx/read.ts";
import { writeModel } from "../../src/onnx/write.ts";
import { type OpName, opOf, OPS } from "../../src/ops/index.ts";
import { expectParity } from "../support/ort.ts";
import { opGraph } from "../support/ops.ts";
import { SAMPLES } from "./samples.ts";

setDefaultTimeout(120_000);

describe.each(Object.keys(OPS) as OpName[])("%s", (name) => {
  SAMPLES[name].forEach(({ attrs, inputs, bound = 1e-6 }, i) => {
    const graphOf = (wanted?: number) => {
      const { builder, outputs, feeds } = opGraph({ op: opOf({ op: name }), inputs, attrs });
      outputs.forEach((output, j) =>
        wanted === undefined || wanted === j ? builder.output({ name: output, role: "boundary" }) : 0,
      );
      return { graph: builder.build(), feeds, outputs };
    };

    test(`sample ${i}: kernels and ONNX Runtime agree, relative error <= ${bound}`, async () => {
      const { graph, feeds, outputs } = graphOf();
      await expectParity(graph, feeds, bound);
      if (outputs.length === 1) return;
      for (let j = 0; j < outputs.length; j++) {
        const alone = graphOf(j);
        await expectParity(alone.graph, alone.feeds, bound, [false]);
      }
    });

    test(`sample ${i}: its ONNX model gives the graph back`, () => {
      const { graph } = graphOf();
      const bytes = writeModel(graph);
      const back = readModel(bytes, name);
      const rounded = graph.nodes.map((node) => ({ ...node, attrs: roundFloats(node.attrs) }));
      expect({ ...back, nodes: back.nodes.map((node) => ({ ...node, attrs: roundFloats(node.attrs) })) }).toEqual({
        ...graph,
        nodes: rounded,
      });
      expect(writeModel(back)).toEqual(bytes);
    });
  });
});

/** ONNX keeps float attributes in f32. */
function roundFloats(attrs: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(attrs).map(([name, value]) => [name, typeof value === "number" ? Math.fround(value) : value]),
  );
}
