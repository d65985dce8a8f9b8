import { UserError } from "../../../base/errors.ts";
import { Add } from "../../../ops/add.ts";
import { Affine } from "../../../ops/affine.ts";
import { Gather } from "../../../ops/gather.ts";
import { Mul } from "../../../ops/mul.ts";
import { Reshape } from "../../../ops/reshape.ts";
import { RMSNormalization } from "../../../ops/rms-norm.ts";
import { ScaleColumns } from "../../../ops/scale-columns.ts";
import { attend, attentionLayer, attentionOf, type AttentionSettings, rotated } from "../../blocks/attention.ts";
import { chosenExperts, EXPERT_NAMES, type ExpertNames, routing } from "../../blocks/experts.ts";
import type { BlockParts, Layer } from "../../blocks/layer.ts";
import { activated, gatedMlp } from "../../blocks/mlp.ts";
import { headNorm, norm, plainHeadNorm } from "../../blocks/norm.ts";
import { residual } from "../../blocks/residual.ts";
import type { ExpertsConfig, ModelConfig } from "../../config.ts";
import { layerInputName, sharedKeysName, sharedValuesName } from "../../names.ts";
import type { Family, Raw } from "../family.ts";
import { LLAMA_MODULES } from "../llama/llama.ts";
import { readDecoder } from "../reading/common.ts";
import { TEXT_PREFIX, textPart } from "../reading/wrapped.ts";
import { GEMMA4_DEFAULTS, gemma4Rules } from "./gemma4-config.ts";
import { GEMMA4_GGUF } from "./gemma4-gguf.ts";

/** The text part of a Gemma 4 that sees images and hears. */
function textOf(raw: Raw, where: string): Raw {
  return { ...textPart(raw, where), tie_word_embeddings: raw["tie_word_embeddings"] ?? true };
}

/** By block: the block whose keys and values it attends to, its own or those of the last of its kind that has its own. */
export function keyOwners({ layers, windowLayers, sharedKeys }: ModelConfig): number[] {
  const first = layers - (sharedKeys?.layers ?? 0);
  const kind = (layer: number) => windowLayers[layer] === true;
  return Array.from({ length: layers }, (_, layer) => {
    if (layer < first) return layer;
    for (let owner = first - 1; owner >= 0; owner--) if (kind(owner) === kind(layer)) return owner;
    throw new Error(`no layer before layer ${first} has keys for layer ${layer}`);
  });
}

/** Names of a segment's own for the keys and values that it takes or makes. */
const KEYS = "shared.keys";
const VALUES = "shared.values";

/** Keys, normed and rotated, and values, normed, each [tokens, kvHeads * headDim]: made of x, or those of block `owner`. */
function keysAndValues(parts: BlockParts, settings: AttentionSettings, x: string, owner: number | null): [string, string] {
  const { config, tokens, carried, project } = parts;
  const { kvHeads, headDim, starts } = settings;
  const width = kvHeads * headDim;
  if (owner !== null) {
    const type = { dtype: "f32", shape: [tokens, width] } as const;
    return [carried.take(KEYS, sharedKeysName(owner), type), carried.take(VALUES, sharedValuesName(owner), type)];
  }
  const { hiddenSize, attentionBias } = config;
  const k = project(x, "self_attn.k_proj", hiddenSize, width, attentionBias);
  const sharesProduct = config.keysAreValues && starts === "starts";
  const v = sharesProduct ? k : project(x, "self_attn.v_proj", hiddenSize, width, attentionBias);
  return [
    rotated(parts, settings, headNorm(parts, k, "self_attn.k_norm", kvHeads), kvHeads, "keys"),
    plainHeadNorm(parts, v, kvHeads, "self_attn.k_norm"),
  ];
}

/** h + norm(W2 (f(W1 h) * p)), with the block's own vectors p [tokens, size]. */
function told(parts: BlockParts, h: string, layer: number): string {
  const { builder, config, scope, tokens, carried, project } = parts;
  const { hiddenSize, hiddenAct, layerInputs } = config;
  if (layerInputs === null) return h;
  const { size } = layerInputs;
  const input = carried.take("input", layerInputName(layer), { dtype: "f32", shape: [tokens, size] });
  const gate = project(h, "per_layer_input_gate", hiddenSize, size, false);
  const gated = builder.value(Mul, [activated(builder, hiddenAct, gate), input], {}, "told.gated");
  const wide = project(gated, "per_layer_projection", size, hiddenSize, false);
  return builder.value(Add, [h, norm(scope, config, wide, "post_per_layer_input_norm", hiddenSize)], {}, "told");
}

const NAMES: ExpertNames = { ...EXPERT_NAMES, router: "router.proj", list: "experts" };

/**
 * norm(mlp(norm h)) + norm(experts(norm h)), with norms of their own. The router takes h normed to lengths of about 1, features times factors that are
 * learned, and an expert's weight has a factor of its own.
 */
function mlpAndExperts(parts: BlockParts, h: string, mlp: (x: string) => string, experts: ExpertsConfig): string {
  const { builder, config, scope, tokens, project } = parts;
  const { hiddenSize, normEps } = config;
  const { count, perToken } = experts;
  const normed = (x: string, name: string) => norm(scope, config, x, name, hiddenSize);
  const factors = builder.value(Affine, [scope.vector("router.scale", hiddenSize)], { alpha: hiddenSize ** -0.5, beta: 0 });
  const routed = builder.value(RMSNormalization, [h, factors], { axis: -1, epsilon: normEps }, "router.normed");
  const [weights, chosen] = routing(builder, [project(routed, NAMES.router, hiddenSize, count, false)], experts);
  const table = builder.value(Reshape, [scope.vector("router.per_expert_scale", count)], { shape: [count, 1] });
  const slots = builder.value(Reshape, [chosen], { shape: [tokens * perToken] });
  const scales = builder.value(Reshape, [builder.value(Gather, [table, slots], {})], { shape: [tokens, perToken] });
  const scaled = builder.value(Mul, [weights, scales], {}, "router.scaled");
  const dense = normed(mlp(normed(h, "pre_feedforward_layernorm")), "post_feedforward_layernorm_1");
  const x = normed(h, "pre_feedforward_layernorm_2");
  const sparse = normed(chosenExperts(parts, x, [scaled, chosen], experts, NAMES), "post_feedforward_layernorm_2");
  return builder.value(Add, [dense, sparse], {}, "mlp.and_experts");
}

/** h times the block's own number. */
function scaledAsWhole({ builder, scope, config, tokens }: BlockParts, h: string): string {
  const { hiddenSize } = config;
  const column = builder.value(Reshape, [h], { shape: [tokens * hiddenSize, 1] });
  const scaled = builder.value(ScaleColumns, [column, scope.constant("layer_scalar", 1)], {}, "scaled");
  return builder.value(Reshape, [scaled], { shape: [tokens, hiddenSize] });
}

function layers(config: ModelConfig): Layer[] {
  const owners = keyOwners(config);
  const { sharedKeys, intermediateSize, experts } = config;
  return owners.map((owner, layer) => {
    const settings = attentionOf(config, layer);
    const takes = owner !== layer;
    const isWide = takes && sharedKeys?.hasWideMlp === true;
    const attention = (parts: BlockParts, x: string): string => {
      const { project, carried } = parts;
      const { heads, headDim } = settings;
      const { hiddenSize, attentionBias } = config;
      const queries = project(x, "self_attn.q_proj", hiddenSize, heads * headDim, attentionBias);
      const q = rotated(parts, settings, headNorm(parts, queries, "self_attn.q_norm", heads), heads, "queries");
      const [k, v] = keysAndValues(parts, settings, x, takes ? owner : null);
      if (!takes && owners.indexOf(layer, layer + 1) >= 0) {
        carried.make(KEYS, sharedKeysName(layer), k);
        carried.make(VALUES, sharedValuesName(layer), v);
      }
      return project(attend(parts, settings, q, k, v), "self_attn.o_proj", heads * headDim, hiddenSize, attentionBias);
    };
    const build = (parts: BlockParts): string => {
      const wide = isWide ? { ...parts, config: { ...config, intermediateSize: 2 * intermediateSize } } : parts;
      const mlp = (x: string) => gatedMlp(wide, x);
      const h = residual(
        parts,
        { norm: "input_layernorm", add: (x) => attention(parts, x), after: "post_attention_layernorm" },
        experts?.layers[layer]
          ? { norm: null, add: (x) => mlpAndExperts(parts, x, mlp, experts), after: "post_feedforward_layernorm" }
          : { norm: "pre_feedforward_layernorm", add: mlp, after: "post_feedforward_layernorm" },
      );
      return scaledAsWhole(parts, told(parts, h, layer));
    };
    return { ...attentionLayer(settings, build), cachesOf: takes ? owner : undefined };
  });
}

/**
 * Gemma 4: layers with a window and layers without have heads of their own. In the small models the last layers attend to keys and values of earlier
 * ones, and each block is told of each token by a vector of its own; in 26B-A4B experts stand beside the MLP.
 */
export const gemma4: Family = {
  type: "gemma4_text",
  architecture: "Gemma4ForCausalLM",
  classifier: null,
  bare: "Gemma4TextModel",
  models: ["Gemma 4"],
  wrappers: [
    {
      type: "gemma4",
      text: textOf,
      modulePrefix: TEXT_PREFIX,
      renamed: [],
      vision: ["model.vision_tower.", "model.embed_vision.", "model.audio_tower.", "model.embed_audio."],
    },
  ],
  read(raw, where, generation) {
    const config = { ...GEMMA4_DEFAULTS, ...raw };
    if (config["use_bidirectional_attention"] === "all")
      throw new UserError(`${where}: use_bidirectional_attention "all" is not supported; expected a model that generates text`);
    return readDecoder(...gemma4Rules(config, where, generation));
  },
  modules: {
    ...LLAMA_MODULES,
    linear: [...LLAMA_MODULES.linear, "per_layer_input_gate", "per_layer_projection", "per_layer_model_projection", "proj"],
    layerInputs: { table: "embed_tokens_per_layer", projection: "per_layer_model_projection", norm: "per_layer_projection_norm" },
  },
  experts: NAMES,
  layers,
  gguf: GEMMA4_GGUF,
};
