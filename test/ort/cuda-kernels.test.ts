import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import { inPrecision } from "../../src/autodiff/precision.ts";
import { programsOf, type Segment } from "../../src/graph/segment.ts";
import type { Graph } from "../../src/graph/types.ts";
import type { DType, FloatType } from "../../src/base/dtype.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { isExpertParameter } from "../../src/models/adapters/expert-parameters.ts";
import { buildDecoder } from "../../src/models/chain/decode.ts";
import { type Tuning, uniformAdapters } from "../../src/models/tuning.ts";
import { buildSegments } from "../../src/models/chain/segments.ts";
import { dtypeOf, encodeValueInfo } from "../../src/onnx/encode.ts";
import { type FunctionProto, type ModelProto, ModelProtoSchema, type NodeProto } from "../../src/onnx/gen/onnx_pb.ts";
import { encodeModel } from "../../src/onnx/messages.ts";
import { outputDtype, PORTABLE } from "../../src/onnx/target.ts";
import { writeModel } from "../../src/onnx/write.ts";
import { type OpName, opOf, OPS } from "../../src/ops/index.ts";
import { copyModel, zeroModel } from "../../src/ort/copy-models.ts";
import { TARGETS } from "../../src/ort/executor.ts";
import { SAMPLES } from "../onnx/samples.ts";
import { ENCODERS, FAMILIES, type GoldenFamily, isFewer, modelFolder } from "../support/golden.ts";
import { opGraph } from "../support/ops.ts";
import { everyNth, SLOW, some } from "../support/slow.ts";

setDefaultTimeout(120_000);

// What a model is read into is garbage at once: beside other tests of this process it grew to 16 GB before it was collected.
afterEach(() => Bun.gc(true));

/** The kernels of ONNX Runtime's CUDA provider that are of interest here; the file names its sources. */
const { kernels } = (await Bun.file(join(import.meta.dir, "../golden/ort/cuda-kernels.json")).json()) as {
  kernels: Record<string, { inputs: string[]; outputs: string[]; types: Record<string, DType[]> }>;
};

/** Several tiles of attention and chunks of dropout. */
const TOKENS = 300;

/**
 * The nodes of a model that would run on the CPU, calls of functions looked into: `Operator(types)`. Constants are no work;
 * what a kernel reads in the CPU's memory (shapes, axes, limits of ranges) must be a constant, for that is there.
 */
function onTheCpu({ graph, functions }: ModelProto): string[] {
  const found = new Set<string>();
  const byKey = new Map(functions.map((proto) => [`${proto.name} ${proto.overload}`, proto]));
  const walk = (nodes: readonly NodeProto[], types: Map<string, DType>, constants: Set<string>): void => {
    for (const node of nodes) {
      if (node.opType === "Constant") {
        types.set(node.output[0]!, dtypeOf(node.attribute[0]!.t!.dataType)!);
        constants.add(node.output[0]!);
        continue;
      }
      if (node.domain !== "") {
        call(byKey.get(`${node.opType} ${node.overload}`)!, node, types, constants);
        continue;
      }
      const inputs = node.input.map((name) => (name === "" ? null : types.get(name)!));
      const to = node.attribute.find(({ name }) => name === "to");
      const dtypes = node.output.map((_, i) => outputDtype(node.opType, inputs, to ? { to: Number(to.i) } : {}, i));
      const kernel = kernels[node.opType];
      const fits = (kind: string | undefined, dtype: DType) =>
        kernel?.types[(kind ?? "").replace("...", "")]?.includes(dtype) ?? false;
      const kindOf = (kinds: readonly string[] | undefined, i: number) =>
        kinds?.[i] ?? (kinds?.at(-1)?.endsWith("...") ? kinds.at(-1) : undefined);
      const inputFits = node.input.every((name, i) => {
        const kind = kindOf(kernel?.inputs, i);
        return name === "" || (kind === "host" ? constants.has(name) : fits(kind, inputs[i]!));
      });
      const outputFits = node.output.every((_, i) => fits(kindOf(kernel?.outputs, i), dtypes[i]!));
      if (!inputFits || !outputFits) found.add(`${node.opType}(${inputs.join(", ")}) -> ${dtypes.join(", ")}`);
      node.output.forEach((name, i) => types.set(name, dtypes[i]!));
    }
  };
  const call = (proto: FunctionProto, node: NodeProto, types: Map<string, DType>, constants: Set<string>): void => {
    const inner = new Map<string, DType>();
    const known = new Set<string>();
    proto.input.forEach((name, i) => {
      const given = node.input[i] ?? "";
      if (given !== "") inner.set(name, types.get(given)!);
      if (constants.has(given)) known.add(name);
    });
    walk(proto.node, inner, known);
    node.output.forEach((name, i) => name !== "" && types.set(name, inner.get(proto.output[i]!)!));
  };
  const types = new Map(
    graph!.input.map(({ name, type }) => [name, dtypeOf((type!.value.value as { elemType: number }).elemType)!]),
  );
  for (const { name, dataType } of graph!.initializer) types.set(name, dtypeOf(dataType)!);
  walk(graph!.node, types, new Set(graph!.initializer.map(({ name }) => name)));
  return [...found].sort();
}

const onCuda = (graph: Graph): string[] => onTheCpu(fromBinary(ModelProtoSchema, writeModel(graph, undefined, TARGETS.cuda)));

const MODELS: readonly GoldenFamily[] = [...FAMILIES, ...ENCODERS];
const LINEAR = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj query value Wqkv Wi q_lin v_lin lin1 lin2".split(" ");
const adapters = (method: string, targets: readonly string[], dropout = 0.1): Tuning =>
  uniformAdapters({ method, rank: 4, scale: 2, dropout, targets: new Set(targets) });
const LORA = adapters("lora", [...LINEAR, "lm_head", "embed_tokens"]);
const IA3: Tuning = {
  method: "ia3",
  dropout: 0,
  adapts: (module) =>
    LINEAR.some((name) => module.endsWith(`.${name}`)) && !isExpertParameter(module)
      ? { scaled: /down/.test(module) ? "inputs" : "outputs" }
      : null,
  frozen: false,
};
const OTHERS: readonly Tuning[] = [adapters("dora", LINEAR, 0), IA3, { method: "full" }];

describe.each(everyNth(MODELS, 2))("%s: no node of any program is left to the CPU by CUDA", (family) => {
  const config = loadConfig(modelFolder(family));
  // A head whose logits have a bias takes no adapter. Half of the time goes to dropout, which is the same in each family.
  const dropout = MODELS.indexOf(family) % 8 === 0 ? 0.1 : 0;
  const lora = adapters(
    "lora",
    config.headBias && !config.encoder ? [...LINEAR, "embed_tokens"] : [...LINEAR, "lm_head", "embed_tokens"],
    dropout,
  );
  /** The plain suite has adapters in both types (of some families in one), and of the other tunings one in bf16. */
  const tunings = (dtype: FloatType): readonly Tuning[] => {
    if (SLOW) return [lora, ...OTHERS];
    return dtype === "bf16" && !isFewer(family) ? [lora, OTHERS[Math.floor(MODELS.indexOf(family) / 2) % 2]!] : [lora];
  };
  // What runs in bf16 runs in f16, and in f32 but for casts: the list has them wherever it has bf16.
  test.each(some(["bf16", "f32"] as const, 1))("training in %s", (dtype: FloatType) => {
    for (const tuning of tunings(dtype)) {
      const options = { tokens: TOKENS, tuning, weightType: () => dtype, selective: { count: 2 } };
      const segments: Segment[] = inPrecision(buildSegments(config, options), dtype);
      for (const model of new Set(segments.map((segment) => segment.model))) {
        for (const [program, graph] of programsOf(model))
          expect([model.id, program, onCuda(graph)]).toEqual([model.id, program, []]);
      }
    }
  });

  if (isFewer(family)) return;
  test("judging texts", () => {
    const judging = { ...config, textHead: { outputs: 3, padId: null } };
    const tuning: Tuning = { ...LORA, trains: (name) => /^(score|classifier)\b/.test(name) };
    const options = { tokens: TOKENS, tuning, weightType: () => "bf16" as const, head: "logits" as const, texts: 40 };
    const { model } = inPrecision(buildSegments(judging, options), "bf16").at(-1)!;
    for (const [program, graph] of programsOf(model)) expect([program, onCuda(graph)]).toEqual([program, []]);
  });

  if (config.encoder) return;
  test("generation", () => {
    const chain = buildDecoder(config, { tokens: 4, tuning: lora, weightType: () => "bf16" }, { size: 64, texts: 1 });
    for (const { name, model } of chain) expect([name, onCuda(model.forward)]).toEqual([name, []]);
  });
});

test.each(Object.keys(OPS) as OpName[])("%s runs on CUDA", (name) => {
  for (const { attrs, inputs } of SAMPLES[name]) {
    const { builder, outputs } = opGraph({ op: opOf({ op: name }), inputs, attrs });
    for (const output of outputs) builder.output({ name: output, role: "boundary" });
    expect(onCuda(builder.build())).toEqual([]);
  }
});

test("a kernel of bf16 has f16 and f32 too", () => {
  for (const [op, { types }] of Object.entries(kernels))
    for (const dtypes of Object.values(types))
      if (dtypes.includes("bf16")) expect([op, dtypes]).toEqual([op, expect.arrayContaining(["f16", "f32"])]);
});

test("the models that move and clear memory run on CUDA", () => {
  for (const model of [copyModel(), zeroModel()]) {
    // The size of what is to be cleared comes from the CPU.
    expect(onTheCpu(fromBinary(ModelProtoSchema, model)).filter((node) => !node.startsWith("ConstantOfShape(i64)"))).toEqual([]);
  }
});

test("what CUDA has no kernel for is found: dropout with bit operations, comparisons in bf16", () => {
  const { attrs, inputs } = SAMPLES.PhiloxDropout[0]!;
  const { builder, outputs } = opGraph({ op: opOf({ op: "PhiloxDropout" }), inputs, attrs });
  builder.output({ name: outputs[0]!, role: "boundary" });
  const model = fromBinary(ModelProtoSchema, writeModel(builder.build(), undefined, PORTABLE));
  expect(onTheCpu(model)).toEqual(["BitShift(u64, u64) -> u64", "BitwiseAnd(u64, u64) -> u64", "BitwiseXor(u64, u64) -> u64"]);
  const half = encodeValueInfo("h", { dtype: "bf16", shape: [3] });
  const node = { opType: "GreaterOrEqual", input: ["h", "h"], output: ["y"] };
  const graph = { name: "comparison", node: [node], input: [half], output: [] };
  const comparison = encodeModel({ irVersion: 11, producerName: "", opsetImport: [], graph });
  expect(onTheCpu(fromBinary(ModelProtoSchema, comparison))).toEqual(["GreaterOrEqual(bf16, bf16) -> bool"]);
});
