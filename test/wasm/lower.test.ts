import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { Opcode } from "../../assembly/opcodes.ts";
import { GraphBuilder } from "../../src/graph/builder.ts";
import type { Graph, Node, TensorType } from "../../src/graph/types.ts";
import { Add } from "../../src/ops/add.ts";
import { Cast, CAST_TO } from "../../src/ops/cast.ts";
import { Gemm } from "../../src/ops/gemm.ts";
import { opOf } from "../../src/ops/index.ts";
import { Reshape } from "../../src/ops/reshape.ts";
import { SwiGLU, SwiGLUGrad } from "../../src/ops/swiglu.ts";
import { defineOp } from "../../src/ops/types.ts";
import { type Lowered, lower } from "../../src/wasm/lower.ts";

setDefaultTimeout(120_000);

interface Decoded {
  readonly opcode: number;
  /** `name+offset` of a bound value, `workspace+offset`, or null. */
  readonly pointers: readonly (string | null)[];
  readonly scalars: Int32Array;
}

/** Reads commands back, as assembly/command.ts describes them. */
function decode({ commands, slots, reads }: Lowered): Decoded[] {
  const nameOf = (slot: number) => (slot === 0 ? "workspace" : (slots[slot - 1] ?? reads[slot - 1 - slots.length]!.input));
  const decoded: Decoded[] = [];
  for (let at = 0; at < commands.length; at += commands[at + 1]!) {
    const count = commands[at + 2]!;
    const pointers = Array.from({ length: count }, (_, i) => {
      const [slot, offset] = commands.subarray(at + 3 + 2 * i, at + 5 + 2 * i) as unknown as [number, number];
      return slot < 0 ? null : `${nameOf(slot)}+${offset}`;
    });
    decoded.push({ opcode: commands[at]!, pointers, scalars: commands.slice(at + 3 + 2 * count, at + commands[at + 1]!) });
  }
  return decoded;
}

const lowered = (graph: Graph): Lowered => lower(graph, opOf as (node: Node) => ReturnType<typeof opOf>);
const opcodes = (graph: Graph): number[] => decode(lowered(graph)).map((command) => command.opcode);

const f32 = (...shape: number[]): TensorType => ({ dtype: "f32", shape });
const linear = (): { builder: GraphBuilder; x: string; w: string; cast: string; y: string } => {
  const builder = new GraphBuilder("linear");
  const x = builder.input("x", "boundary", f32(5, 8));
  const w = builder.input("w", "param", { dtype: "bf16", shape: [8, 8] });
  const cast = builder.value(Cast, [w], { to: CAST_TO.f32 }, "w.f32");
  const y = builder.value(Gemm, [x, cast], { transB: 1 }, "y");
  return { builder, x, w, cast, y };
};

describe("lowering", () => {
  test("a Cast whose consumers all read halves is not executed: they get the half operand", () => {
    const { builder, y } = linear();
    builder.output({ name: y, role: "boundary" });
    const program = lowered(builder.build());
    const commands = decode(program);
    expect(commands.map((command) => command.opcode)).toEqual([Opcode.Gemm]);
    expect(commands[0]!.pointers).toContain("w+0");
    expect(program.workspace).toBe(0);
  });

  test("a Cast is executed if another operator, or the caller, wants its result", () => {
    const added = linear();
    const sum = added.builder.value(Add, [added.cast, added.cast], {});
    added.builder.output({ name: added.y, role: "boundary" });
    added.builder.output({ name: sum, role: "boundary" });
    expect(opcodes(added.builder.build())).toEqual([Opcode.CastHalf, Opcode.Gemm, Opcode.Add]);

    const wanted = linear();
    wanted.builder.output({ name: wanted.y, role: "boundary" });
    wanted.builder.output({ name: wanted.cast, role: "tape" });
    expect(opcodes(wanted.builder.build())).toEqual([Opcode.CastHalf, Opcode.Gemm]);
  });

  test("nodes whose results nobody uses are not executed", () => {
    const { builder, x, y } = linear();
    builder.output({ name: y, role: "boundary" });
    builder.value(Add, [builder.value(SwiGLU, [x, x], {}), x], {});
    expect(opcodes(builder.build())).toEqual([Opcode.Gemm]);
  });

  test("an output that nobody uses is a null pointer and takes no memory", () => {
    const builder = new GraphBuilder("unused");
    for (const name of ["gate", "up", "dy"]) builder.input(name, "boundary", f32(4, 4));
    const [, dup] = builder.node(SwiGLUGrad, ["gate", "up", "dy"], {});
    builder.output({ name: dup!, role: "boundary" });
    const program = lowered(builder.build());
    expect(decode(program)[0]!.pointers).toEqual(["gate+0", "up+0", "dy+0", null, `${dup}+0`]);
    expect(program.workspace).toBe(0);
  });

  test("a view is the memory of its source", () => {
    const builder = new GraphBuilder("view");
    const x = builder.input("x", "boundary", f32(4, 4));
    const flat = builder.value(Reshape, [x], { shape: [16] }, "flat");
    const y = builder.value(Add, [flat, flat], {}, "y");
    builder.output({ name: y, role: "boundary" });
    expect(decode(lowered(builder.build())).map((command) => command.pointers)).toEqual([["x+0", "x+0", "y+0"]]);
  });

  test("a gradient that starts from its accumulator is written there: no workspace, no copy", () => {
    const builder = new GraphBuilder("accumulate");
    const [x, dy] = [builder.input("x", "boundary", f32(5, 8)), builder.input("dy", "output-grad", f32(5, 3))];
    const acc = builder.input("acc", "accumulator", f32(3, 8));
    const sum = builder.value(Gemm, [dy, x, acc], { transA: 1 }, "sum");
    builder.output({ name: sum, role: "param-grad", updates: acc });
    const program = lowered(builder.build());
    const [command, ...rest] = decode(program);
    expect(rest).toEqual([]);
    expect(command!.pointers).toEqual(expect.arrayContaining(["dy+0", "x+0", "acc+0", "sum+0"]));
    expect(program.workspace).toBe(0);
  });

  test("offsets, scratch and scalars are encoded; the node of a command is known", () => {
    const Probe = defineOp<Record<never, never>>({
      name: "Probe",
      domain: "remat",
      cost: "memory",
      infer: ([x]) => [x!],
      gradient: { notDifferentiable: "a test" },
      body: "standard",
      lower(e) {
        const scratch = e.scratch(100);
        e.emit(Opcode.Fill, [{ base: e.input(0)!, offset: 32 }, { base: scratch, offset: 8 }, null], [-5, { f32: 0.5 }, 2 ** 31]);
        e.emit(Opcode.Copy, [scratch, e.output(0)], []);
      },
    });
    const builder = new GraphBuilder("probe");
    const x = builder.input("x", "boundary", f32(16));
    builder.output({ name: builder.value(Probe, [x], {}, "y"), role: "boundary" });
    const program = lower(builder.build(), () => Probe);
    const [fill, copy] = decode(program);
    expect(fill!.pointers).toEqual(["x+32", "workspace+8", null]);
    expect([fill!.scalars[0]!, fill!.scalars[2]! >>> 0]).toEqual([-5, 2 ** 31]);
    expect(new Float32Array(fill!.scalars.buffer)[1]).toBe(0.5);
    expect(copy!.pointers).toEqual(["workspace+0", "y+0"]);
    expect(program.workspace).toBe(128);
    expect([0, program.commands[1]!].map((word) => program.nodeAt(word)?.op)).toEqual(["Probe", "Probe"]);
  });

  test("an operand of another node, or a scalar that is no integer, is an error of the operator", () => {
    const probe = (operand: string, scalar: number): Graph & { op: ReturnType<typeof defineOp> } => {
      const builder = new GraphBuilder("probe");
      const x = builder.input("x", "boundary", f32(16));
      const op = defineOp({
        ...SwiGLU,
        name: "Probe",
        infer: ([type]) => [type!],
        lower: (e) => e.emit(Opcode.Fill, [operand], [scalar]),
      });
      builder.output({ name: builder.value(op, [x], {}, "y"), role: "boundary" });
      return { ...builder.build(), op };
    };
    for (const [operand, scalar, message] of [
      ["z", 1, "Probe of graph probe emits an operand that is neither"],
      ["x", 1.5, "kernel scalar 1.5 is not a 32-bit integer"],
    ] as const) {
      const graph = probe(operand, scalar);
      expect(() => lower(graph, () => graph.op)).toThrow(message);
    }
  });
});
