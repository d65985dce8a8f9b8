import { join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { isRecord, show } from "../../base/json.ts";
import { type AddedToken, plainToken } from "./sentencepiece.ts";

/**
 * Gives `tokenizer.json` the added tokens that only `tokenizer_config.json` lists, as Transformers 5 does when it loads a
 * folder: those of `added_tokens_decoder` in the order of their ids (their flags win over tokenizer.json's), then the named
 * ones (`eos_token`, ...) and those of `extra_special_tokens` and `additional_special_tokens`, which are special also where
 * tokenizer.json says otherwise. A token of the vocabulary keeps its id, another one gets the next that is free; the id that it is listed with says nothing.
 * @param config `tokenizer_config.json`, over `special_tokens_map.json`
 * @param named `bos_token`, `eos_token`, ... by name
 * @throws {UserError} entries that are no tokens
 */
export function withConfiguredTokens(
  json: Readonly<Record<string, unknown>>,
  config: Readonly<Record<string, unknown>>,
  named: Readonly<Record<string, string>>,
  folder: string,
): Readonly<Record<string, unknown>> {
  const own = (Array.isArray(json["added_tokens"]) ? json["added_tokens"] : []) as readonly (AddedToken & { id: number })[];
  const configured = decoderTokens(config["added_tokens_decoder"], folder);
  const special = [...Object.values(named).map((content) => plainToken(content, true)), ...extraTokens(config, folder)];
  const added = new Map(own.map((token) => [token.content, token]));
  const ids = vocabularyIds(json);
  let next = Math.max(ids.size, ...own.map(({ id }) => id + 1));
  let isChanged = false;
  const add = (token: AddedToken, known: (AddedToken & { id: number }) | undefined) => {
    if (token.content === "" || (known && FLAGS.every((flag) => known[flag] === token[flag]))) return;
    isChanged = true;
    added.set(token.content, { ...token, id: known?.id ?? ids.get(token.content) ?? next++ });
  };
  for (const token of configured) add(token, added.get(token.content));
  for (const token of special) {
    const known = added.get(token.content);
    add(known ? { ...known, special: true } : token, known);
  }
  return isChanged ? { ...json, added_tokens: [...added.values()] } : json;
}

const FLAGS = ["special", "lstrip", "rstrip", "single_word", "normalized"] as const satisfies (keyof AddedToken)[];

/** The tokens of `added_tokens_decoder`, in the order of the ids that they are listed with. @throws {UserError} */
export function decoderTokens(decoder: unknown, folder: string): AddedToken[] {
  return Object.entries(isRecord(decoder) ? decoder : {})
    .sort(([a], [b]) => Number(a) - Number(b))
    .map(([id, token]) => {
      if (!isRecord(token) || typeof token["content"] !== "string")
        throw wrongToken(folder, `added token ${id} is ${show(token)}; expected {"content": text}`);
      return tokenOf(token, token["content"], token["special"] === true);
    });
}

/**
 * The tokens of a list or, with the names by which templates know them, of an object. Each is a text or `{"content": text}`.
 * @throws {UserError}
 */
function extraTokens(config: Readonly<Record<string, unknown>>, folder: string): AddedToken[] {
  return ["extra_special_tokens", "additional_special_tokens"].flatMap((key) => {
    const listed = config[key] ?? [];
    if (!Array.isArray(listed) && !isRecord(listed))
      throw wrongToken(folder, `${key} is ${show(listed)}; expected a list of tokens or an object of them`);
    return Object.values(listed).map((token: unknown) => {
      if (typeof token === "string") return plainToken(token, true);
      if (isRecord(token) && typeof token["content"] === "string") return tokenOf(token, token["content"], true);
      throw wrongToken(folder, `${key} has the token ${show(token)}; expected a text or {"content": text}`);
    });
  });
}

/** Tokens that an object of `extra_special_tokens` names beside the usual ones: variables of templates. */
export function namedExtraTokens(config: Readonly<Record<string, unknown>>): Record<string, string> {
  const { extra_special_tokens: extra } = config;
  const named: Record<string, string> = {};
  for (const [name, token] of Object.entries(isRecord(extra) ? extra : {})) {
    const content = isRecord(token) ? token["content"] : token;
    if (typeof content === "string") named[name] = content;
  }
  return named;
}

function tokenOf(fields: Readonly<Record<string, unknown>>, content: string, special: boolean): AddedToken {
  const flag = (name: keyof AddedToken) => fields[name] === true;
  return {
    content,
    special,
    lstrip: flag("lstrip"),
    rstrip: flag("rstrip"),
    single_word: flag("single_word"),
    normalized: flag("normalized"),
  };
}

function wrongToken(folder: string, what: string): UserError {
  return new UserError(`${join(folder, "tokenizer_config.json")}: ${what}`);
}

/** Ids of the model's own vocabulary: an object of ids, or (Unigram) a list of `[token, score]`. */
function vocabularyIds(json: Readonly<Record<string, unknown>>): ReadonlyMap<string, number> {
  const vocab = isRecord(json["model"]) ? json["model"]["vocab"] : undefined;
  if (isRecord(vocab)) return new Map(Object.entries(vocab) as [string, number][]);
  if (!Array.isArray(vocab)) return new Map();
  return new Map(vocab.map((entry: unknown, id) => [Array.isArray(entry) ? String(entry[0]) : String(entry), id]));
}
