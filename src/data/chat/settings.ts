import { UserError } from "../../base/errors.ts";
import { readText } from "../../base/files/files.ts";
import { isRecord, jsonKind, parseJsonExactly, show } from "../../base/json.ts";
import type { Tokenizer } from "../tokens/tokenizer.ts";
import type { SpecialText, TemplateArgs } from "../tokens/rendering.ts";

/** How chats are rendered, where that is not as the model's folder says. */
export interface ChatSettings {
  /** File of a Jinja template. */
  readonly chatTemplate?: string | undefined;
  /** Variables of the template: by name, or as text (see `parseTemplateArgs`). */
  readonly templateArgs?: TemplateArgs | string | undefined;
  readonly specialText?: SpecialText | undefined;
}

/** A tokenizer whose chats are rendered as the settings say. @throws {UserError} a file that cannot be read, arguments that cannot */
export function withChatSettings(tokenizer: Tokenizer, settings: ChatSettings): Tokenizer {
  const { chatTemplate, templateArgs, specialText = tokenizer.specialText } = settings;
  if (chatTemplate === undefined && templateArgs === undefined && specialText === tokenizer.specialText) return tokenizer;
  const args = typeof templateArgs === "string" ? parseTemplateArgs(templateArgs) : (templateArgs ?? tokenizer.templateArgs);
  const chatTemplates = chatTemplate === undefined ? tokenizer.chatTemplates : new Map([["default", readText(chatTemplate)]]);
  const decides = JSON.stringify([tokenizer.fingerprint, [...chatTemplates], args, specialText]);
  const fingerprint = new Bun.CryptoHasher("sha256").update(decides).digest("hex");
  return { ...tokenizer, chatTemplates, templateArgs: args, specialText, fingerprint };
}

/**
 * Reads `enable_thinking=false,language=German`, or a JSON object. A value is JSON where it can be read as such, else a text.
 * @throws {UserError}
 */
export function parseTemplateArgs(text: string): TemplateArgs {
  const where = "--template-args";
  if (text.trimStart().startsWith("{")) {
    const value = parseJsonExactly(text, where);
    if (!isRecord(value)) throw new UserError(`${where}: expected an object, got ${jsonKind(value)}`);
    return value;
  }
  return Object.fromEntries(
    text.split(",").map((part) => {
      const [, name, value] = /^\s*([A-Za-z_]\w*)\s*=(.*)$/s.exec(part) ?? [];
      if (name === undefined || value === undefined)
        throw new UserError(`${where}: expected NAME=VALUE, several with commas, or a JSON object; got ${show(part)}`);
      return [name, valueOf(value.trim())];
    }),
  );
}

/** Python's spelling of the three constants is as good as JSON's. */
const CONSTANTS: Readonly<Record<string, unknown>> = { True: true, False: false, None: null };

function valueOf(text: string): unknown {
  if (Object.hasOwn(CONSTANTS, text)) return CONSTANTS[text];
  try {
    return parseJsonExactly(text, "a value");
  } catch {
    return text;
  }
}
