/** A thread that tokenizes one text after the other. */
import { messageOf, UserError } from "../base/errors.ts";
import { createTokenizer, type Tokenizer } from "../data/tokens/tokenizer.ts";

/** A message to the thread: first the contents of `tokenizer.json`, then texts. */
export type ToEncoder =
  { readonly folder: string; readonly json: string } | { readonly text: string; readonly plain: readonly number[] };

/** The answer of the thread to a text. */
export type FromEncoder = { readonly ids: Int32Array } | { readonly error: string; readonly isUserError: boolean };

declare const self: Worker;

let tokenizer: Tokenizer | null = null;

self.onmessage = ({ data }: MessageEvent<ToEncoder>) => {
  if ("json" in data) {
    tokenizer = createTokenizer(JSON.parse(data.json) as Record<string, unknown>, {}, new Map(), data.folder);
    return;
  }
  try {
    self.postMessage({ ids: tokenizer!.encode(data.text, data.plain) } satisfies FromEncoder);
  } catch (error) {
    self.postMessage({ error: messageOf(error), isUserError: error instanceof UserError } satisfies FromEncoder);
  }
};
