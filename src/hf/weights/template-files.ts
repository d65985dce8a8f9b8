import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

/** A model folder's chat template; wins over the one in tokenizer_config.json. */
export const CHAT_TEMPLATE_FILE = "chat_template.jinja";

/** Where Transformers keeps further chat templates, each under its name. */
export const ADDITIONAL_TEMPLATES = "additional_chat_templates";

/** Tells whether a file of a model's folder is one of its further chat templates. */
export const isAdditionalTemplate = (file: string): boolean => /^additional_chat_templates\/[^/]+\.jinja$/.test(file);

/** The further chat templates of a folder, as paths within it, in the order of their names. */
export function additionalTemplates(folder: string): string[] {
  const templates = join(folder, ADDITIONAL_TEMPLATES);
  const files = existsSync(templates) ? readdirSync(templates) : [];
  return files
    .map((name) => `${ADDITIONAL_TEMPLATES}/${name}`)
    .filter(isAdditionalTemplate)
    .sort();
}
