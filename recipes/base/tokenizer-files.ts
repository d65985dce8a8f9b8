import { join } from "node:path";
import { makeFolder, writeTextAtomic } from "../../src/base/files/files.ts";
import type { Bpe } from "./bpe.ts";

/** Describes what `tokenizer_config.json` says beside the vocabulary. Each token must be one of the special tokens. */
export interface TokenizerSettings {
  /** Ends a text or a turn. */
  readonly eosToken: string;
  readonly padToken: string;
  /** Jinja. */
  readonly chatTemplate: string;
  /** The longest sequence that the model was made for. */
  readonly maxLength: number;
}

/** ChatML: each message between `<|im_start|>role` and `<|im_end|>`. */
export const CHATML_TEMPLATE =
  "{% for message in messages %}" +
  "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}" +
  "{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/** Writes `tokenizer.json` and `tokenizer_config.json` in Hugging Face's format. @throws {UserError} */
export function writeTokenizer(folder: string, bpe: Bpe, settings: TokenizerSettings): void {
  for (const token of [settings.eosToken, settings.padToken]) {
    if (!bpe.specialTokens.includes(token)) throw new Error(`${token} is not a special token of this vocabulary`);
  }
  makeFolder(folder);
  writeTextAtomic(join(folder, "tokenizer.json"), JSON.stringify(tokenizerJson(bpe)) + "\n");
  writeTextAtomic(join(folder, "tokenizer_config.json"), JSON.stringify(tokenizerConfig(bpe, settings), null, 2) + "\n");
}

/** The pipeline of `tokenizer.json`: special tokens, byte-level words, merges; no normalisation, nothing added. */
export function tokenizerJson(bpe: Bpe): object {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: bpe.specialTokens.map((content, id) => ({ id, ...addedToken(content) })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(bpe.vocab.map((token, id) => [token, id])),
      merges: bpe.merges,
    },
  };
}

export function tokenizerConfig(bpe: Bpe, settings: TokenizerSettings): object {
  return {
    added_tokens_decoder: Object.fromEntries(bpe.specialTokens.map((content, id) => [id, addedToken(content)])),
    bos_token: null,
    chat_template: settings.chatTemplate,
    clean_up_tokenization_spaces: false,
    eos_token: settings.eosToken,
    model_max_length: settings.maxLength,
    pad_token: settings.padToken,
    tokenizer_class: "PreTrainedTokenizerFast",
    unk_token: null,
  };
}

function addedToken(content: string): object {
  return { content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
}
