import { expect, test } from "bun:test";
import { graphHash } from "../../src/graph/hash.ts";
import type { AttrValue, Graph, TensorType } from "../../src/graph/types.ts";

const type: TensorType = { dtype: "f32", shape: [2, 3] };

function graph(attrs: Record<string, AttrValue>, change: Partial<Graph> = {}): Graph {
  return {
    name: "block",
    inputs: [{ name: "x", role: "boundary" }],
    outputs: [{ name: "y", role: "boundary" }],
    nodes: [{ op: "Affine", inputs: ["x"], outputs: ["y"], attrs }],
    types: new Map([
      ["x", type],
      ["y", type],
    ]),
    ...change,
  };
}

test("one hash: the same graph, whatever its name and the order of attributes and types", () => {
  const types = new Map([
    ["y", type],
    ["x", type],
  ]);
  expect(graphHash(graph({ beta: 0, alpha: 2 }, { name: "other", types }))).toBe(graphHash(graph({ alpha: 2, beta: 0 })));
});

test("another hash for anything that is computed or bound otherwise", () => {
  const node = graph({ alpha: 2 }).nodes[0]!;
  const half: TensorType = { dtype: "f16", shape: [2, 3] };
  const wide: TensorType = { dtype: "f32", shape: [23] };
  const all = [
    graph({ alpha: 2 }),
    graph({ alpha: 2.5 }),
    graph({ alpha: "2" }),
    graph({ alpha: [2] }),
    graph({ beta: 2 }),
    graph({ alpha: 2, beta: 0 }),
    graph({ alpha: 2, beta: -0 }),
    graph({ alpha: Infinity }),
    graph({ alpha: -Infinity }),
    graph({ alpha: NaN }),
    graph({ alpha: 2 }, { nodes: [{ ...node, op: "Identity" }] }),
    graph({ alpha: 2 }, { nodes: [node, node] }),
    graph({ alpha: 2 }, { nodes: [{ ...node, inputs: ["x", ""] }] }),
    graph({ alpha: 2 }, { inputs: [{ name: "x", role: "param" }] }),
    graph({ alpha: 2 }, { outputs: [{ name: "y", role: "loss" }] }),
    graph({ alpha: 2 }, { outputs: [{ name: "y", role: "boundary", updates: "x" }] }),
    ...[half, wide].map((y) => graph({ alpha: 2 }, { types: new Map([...graph({}).types, ["y", y]]) })),
  ];
  expect(new Set(all.map(graphHash)).size).toBe(all.length);
});
