import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { fileError } from "../../base/files/files.ts";
import { isRecord, readJsonObject, show } from "../../base/json.ts";
import { decoderTokens } from "./added-tokens.ts";
import { type AddedToken, plainToken, readSentencePiece, sentencePieceJson } from "./sentencepiece.ts";

/** The vocabulary of a model folder without `tokenizer.json`. */
export const SENTENCEPIECE_FILE = "tokenizer.model";

/**
 * `tokenizer.model` of a folder as a `tokenizer.json`, with the added tokens that `tokenizer_config.json` and
 * `added_tokens.json` list. As in Transformers' Llama, the begin of a text is marked unless `add_bos_token` says otherwise.
 * @param config `tokenizer_config.json`
 * @param named `bos_token`, `eos_token`, ... by name
 * @throws {UserError} damaged files, another kind of model
 */
export function tokenizerFromSentencePiece(
  folder: string,
  config: Readonly<Record<string, unknown>>,
  named: Readonly<Record<string, string>>,
): Record<string, unknown> {
  const path = join(folder, SENTENCEPIECE_FILE);
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw fileError("read", path, error);
  }
  const model = readSentencePiece(bytes, path);
  const added = addedTokens(folder, config, named);
  const known = new Set([...model.pieces.map(({ text }) => text), ...[...added.values()].map(({ content }) => content)]);
  const wanted = (name: "bos_token" | "eos_token", isWanted: unknown): string[] => {
    const token = named[name];
    return isWanted === true && token !== undefined && known.has(token) ? [token] : [];
  };
  return sentencePieceJson(model, {
    added,
    prefixOnce: config["legacy"] === false,
    spacePrefix: typeof config["add_prefix_space"] === "boolean" ? config["add_prefix_space"] : null,
    before: wanted("bos_token", config["add_bos_token"] ?? true),
    after: wanted("eos_token", config["add_eos_token"] ?? false),
  });
}

function addedTokens(
  folder: string,
  config: Readonly<Record<string, unknown>>,
  named: Readonly<Record<string, string>>,
): Map<number, AddedToken> {
  const added = new Map<number, AddedToken>();
  const listed = join(folder, "added_tokens.json");
  const special = new Set(Object.values(named));
  for (const [content, id] of Object.entries(existsSync(listed) ? readJsonObject(listed) : {})) {
    if (typeof id !== "number")
      throw new UserError(`${listed}: token ${show(content)} has the id ${show(id)}; expected a number`);
    added.set(id, plainToken(content, special.has(content)));
  }
  const { added_tokens_decoder: decoder } = config;
  const ids = Object.keys(isRecord(decoder) ? decoder : {}).sort((a, b) => Number(a) - Number(b));
  for (const [i, token] of decoderTokens(decoder, folder).entries()) added.set(Number(ids[i]), token);
  return added;
}
