import { UserError } from "../../../base/errors.ts";
import { isRecord, show } from "../../../base/json.ts";
import type { ModelConfig } from "../../config.ts";
import type { Raw, Wrapper } from "../family.ts";

/** Keys of a model with images that count for its text part too. */
const OUTER = ["eos_token_id", "bos_token_id", "pad_token_id", "dtype", "torch_dtype", "quantization_config"];

/** The begin of the names of the text part's modules, in all such models of Transformers 5. */
export const TEXT_PREFIX: ModelConfig["modulePrefix"] = "model.language_model.";

/**
 * The text part of the `config.json` of a model with images, with what the outer part says of tokens and dtypes.
 * @param text by default the key `text_config`
 * @throws {UserError} no text part
 */
export function textPart(raw: Raw, where: string, text: unknown = raw["text_config"]): Raw {
  if (!isRecord(text)) {
    throw new UserError(`${where}: "text_config" is ${show(text)}; a ${String(raw["model_type"])} model needs an object`);
  }
  const known = Object.fromEntries(OUTER.flatMap((key) => (raw[key] === undefined ? [] : [[key, raw[key]]])));
  return { ...text, ...known };
}

/** The begins of names in files and in the modules, of models that were first published under LLaVA's names. */
export const LLAVA_NAMES: Pick<Wrapper, "modulePrefix" | "renamed" | "vision"> = {
  modulePrefix: TEXT_PREFIX,
  renamed: [
    ["language_model.lm_head.", "lm_head."],
    ["language_model.model.", "model.language_model."],
    ["vision_tower.", "model.vision_tower."],
    ["multi_modal_projector.", "model.multi_modal_projector."],
  ],
  vision: ["model.vision_tower.", "model.multi_modal_projector."],
};
