import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { show } from "../../../base/json.ts";
import { parseWith, size } from "../../../base/schema.ts";
import { attentionLayer, attentionOf, selfAttention } from "../../blocks/attention.ts";
import { fusedMlp } from "../../blocks/mlp.ts";
import { residual } from "../../blocks/residual.ts";
import type { Family, Raw } from "../family.ts";
import { half } from "../orders.ts";
import { attentionBiases, readDecoder } from "../reading/common.ts";
import { factorsOf, GRANITE_GGUF } from "./granite.ts";
import { LLAMA_MODULES } from "./llama.ts";

const ownSchema = z.object({
  num_hidden_layers: size,
  num_local_experts: z.int().nonnegative().nullish(),
  shared_intermediate_size: size.default(1024),
  position_embedding_type: z.string().nullish(),
  layer_types: z.array(z.string()).nullish(),
  layers_block_type: z.array(z.string()).nullish(),
});

const { "mlp.gate_proj": _, "mlp.up_proj": __, "mlp.down_proj": ___, ...OTHERS } = GRANITE_GGUF.modules;

/** @throws {UserError} experts, or layers that do not attend */
function checkDense(own: z.infer<typeof ownSchema>, where: string): void {
  const { num_local_experts: experts, num_hidden_layers: layers } = own;
  if ((experts ?? 8) > 0)
    throw new UserError(`${where}: num_local_experts ${experts ?? 8} is not supported; expected 0, a dense model`);
  const types = own.layer_types ?? own.layers_block_type;
  if (!types)
    throw new UserError(`${where}: there are no layer_types, so that no layer attends; expected "attention" in all layers`);
  const other = types.find((type) => type !== "attention" && type !== "full_attention");
  if (other !== undefined)
    throw new UserError(`${where}: layer_types has ${show(other)}, which is not supported; expected "attention" in all layers`);
  if (types.length !== layers)
    throw new UserError(`${where}: layer_types has ${types.length} entries; expected one for each of ${layers} layers`);
}

/** The keys of the other Granites in the place of its own. */
function plainOf(raw: Raw, own: z.infer<typeof ownSchema>): Raw {
  return { ...raw, intermediate_size: own.shared_intermediate_size, layer_types: null };
}

/**
 * Granite 4, dense (IBM 2025, https://www.ibm.com/granite/docs/models/granite): Granite's factors; gate and up are one matrix, and there are
 * rotary positions only where the file asks for them.
 */
export const granite4: Family = {
  type: "granitemoehybrid",
  architecture: "GraniteMoeHybridForCausalLM",
  classifier: null,
  models: ["Granite 4 (dense)"],
  read(raw, where, generation) {
    const own = parseWith(ownSchema, raw, where);
    checkDense(own, where);
    return readDecoder(plainOf(raw, own), where, generation, {
      family: "granitemoehybrid",
      defaults: { maxPositions: 2048, kvHeads: null, headDim: null, bos: 1, eos: 2 },
      biases: attentionBiases,
      more: () => ({
        ...factorsOf(raw, where),
        ...(own.position_embedding_type === "rope" ? {} : { rotaryLayers: Array<boolean>(own.num_hidden_layers).fill(false) }),
      }),
    });
  },
  modules: {
    ...LLAMA_MODULES,
    linear: ["q_proj", "k_proj", "v_proj", "o_proj", "input_linear", "output_linear"],
    scaled: { outputs: ["k_proj", "v_proj"], inputs: ["output_linear"] },
  },
  layers: (config) =>
    Array.from({ length: config.layers }, (_, layer) => {
      const settings = attentionOf(config, layer);
      const names = { both: "shared_mlp.input_linear", down: "shared_mlp.output_linear" };
      return attentionLayer(settings, (parts) =>
        residual(
          parts,
          { norm: "input_layernorm", add: (x) => selfAttention(parts, settings, x) },
          { norm: "post_attention_layernorm", add: (x) => fusedMlp(parts, x, names) },
        ),
      );
    }),
  gguf: {
    ...GRANITE_GGUF,
    modules: {
      ...OTHERS,
      "shared_mlp.input_linear": [
        { name: "ffn_gate", rows: () => half(0) },
        { name: "ffn_up", rows: () => half(1) },
      ],
      "shared_mlp.output_linear": "ffn_down",
    },
    check({ rotaryLayers }) {
      if (rotaryLayers.includes(false)) throw new UserError("GGUF's granite models have rotary positions, and this one has none");
    },
  },
};
