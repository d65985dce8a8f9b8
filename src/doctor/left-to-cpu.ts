import { programsOf } from "../graph/segment.ts";
import { type Graph, typeOf, type WeightType } from "../graph/types.ts";
import { buildSegments } from "../models/chain/segments.ts";
import { parseConfig } from "../models/families/index.ts";
import { type Tuning, uniformAdapters } from "../models/tuning.ts";
import type { Executor } from "../runtime/executor.ts";

const TARGETS = ["q_proj", "v_proj", "down_proj"];
const TOKENS = 64;

/** A small Llama that has everything once. */
const CONFIG = {
  architectures: ["LlamaForCausalLM"],
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 1,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 128,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: true,
};

/** Names what a small model trains with, adapted and whole, on plain weights and quantised ones, of which a device leaves a part to the CPU. */
export function leftToCpu(leavesToCpu: NonNullable<Executor["leavesToCpu"]>): string[] {
  const config = parseConfig(CONFIG, "doctor");
  const lora = uniformAdapters({ rank: 4, scale: 1, dropout: 0.1, targets: new Set(TARGETS) });
  const full: Tuning = { method: "full" };
  const cases: readonly (readonly [Tuning, WeightType])[] = [
    [full, "f32"],
    [lora, "q8"],
    [lora, "nf4"],
  ];
  const seen = new Set<string>();
  const found = new Set<string>();
  for (const [tuning, type] of cases) {
    const weightType = (name: string) => (name.endsWith("proj.weight") ? type : "f32");
    const models = new Set(buildSegments(config, { tokens: TOKENS, tuning, weightType }).map(({ model }) => model));
    for (const graph of [...models].flatMap((model) => programsOf(model).map(([, each]) => each))) {
      for (const alone of nodesAlone(graph)) {
        const [node] = alone.nodes;
        const types = node!.inputs.map((name) => (name === "" ? null : typeOf(graph, name)));
        const key = JSON.stringify([node!.op, types, node!.attrs]);
        if (seen.has(key)) continue;
        seen.add(key);
        if (leavesToCpu(alone)) found.add(`${node!.op}(${types.map((each) => each?.dtype ?? "").join(", ")})`);
      }
    }
  }
  return [...found].sort();
}

/** A graph for each node of a graph. */
function nodesAlone({ nodes, types }: Graph): Graph[] {
  const boundaries = (names: readonly string[]) =>
    [...new Set(names)].filter((name) => name !== "").map((name) => ({ name, role: "boundary" as const }));
  return nodes.map((node) => ({
    name: node.op,
    nodes: [node],
    types,
    inputs: boundaries(node.inputs),
    outputs: boundaries(node.outputs),
  }));
}
