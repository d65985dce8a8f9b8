import { afterAll, beforeAll, expect } from "bun:test";
import { join } from "node:path";
import type { Tokenizer } from "../../src/data/tokens/tokenizer.ts";
import { createDecoders, type Decoder } from "../../src/generate/open-decoder.ts";
import { stopTokens } from "../../src/generate/generate.ts";
import { GREEDY } from "../../src/generate/sampler.ts";
import { openModel } from "../../src/load/open-model.ts";
import type { ServedModel } from "../../src/serve/answer-orders.ts";
import { type ModelServer, type RequestReport, type ServerOptions, startServer } from "../../src/serve/server.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";

/** A model folder as it is served: greedy, at most 24 tokens an answer. */
export async function openServed(folder: string, conversations = 1): Promise<{ readonly model: ServedModel; close(): void }> {
  const opened = await openModel({ model: folder });
  const executor = await createWasmExecutor({ threads: 1 });
  const { config, tokenizer, source } = opened;
  return {
    model: {
      name: "served",
      tokenizer,
      decoders: createDecoders(executor, { config, source }, conversations).each,
      vocabSize: config.vocabSize,
      stop: stopTokens(config, tokenizer),
      sampling: { ...GREEDY, maxNewTokens: 24 },
    },
    close: () => (executor.close(), opened.close()),
  };
}

/** A decoder that says a text after any prompt, token for token, and then ends it; or one token for ever. */
export function scriptedDecoder(tokenizer: Tokenizer, vocabSize: number, script: string | "for ever", maxTokens = 1024): Decoder {
  const said = script === "for ever" ? null : [...tokenizer.encode(script), tokenizer.eosId!];
  const again = tokenizer.encode("a")[0]!;
  let held: readonly number[] = [];
  let promptTokens = 0;
  const decoder: Decoder = {
    maxTokens,
    get ids() {
      return held;
    },
    feed: (ids) => {
      const pieces = decoder.feedInPieces(ids);
      for (;;) {
        const { done, value } = pieces.next();
        if (done === true) return value;
      }
    },
    startAnew() {
      held = [];
    },
    *feedInPieces(ids) {
      if (held.length === 0 || ids.length !== held.length + 1) promptTokens = ids.length;
      yield 0;
      held = [...ids];
      const logits = new Float32Array(vocabSize);
      logits[said === null ? again : said[ids.length - promptTokens]!] = 1;
      return logits;
    },
  };
  return decoder;
}

export const originOf = ({ url }: ModelServer): string => new URL(url).origin;

export interface Client {
  readonly server: ModelServer;
  /** In the order in which the requests ended. */
  readonly reports: readonly RequestReport[];
  post(path: string, body: object | string, init?: RequestInit): Promise<Response>;
  /** Resolves when so many requests have ended. */
  ended(count: number): Promise<void>;
  /** Resolves when so many prompts have been read: their requests are answered or wait. */
  received(count: number): Promise<void>;
  /** The texts that were tokenized on the event loop. */
  encoded(): readonly string[];
}

/** A server on a free port, and a client of it. */
export function serve(model: ServedModel, options: Partial<ServerOptions> = {}): Client {
  const reports: RequestReport[] = [];
  const encoded: string[] = [];
  const tokenizer: Tokenizer = {
    ...model.tokenizer,
    encode(text, plain) {
      encoded.push(text);
      return model.tokenizer.encode(text, plain);
    },
  };
  const server = startServer(
    { ...model, tokenizer },
    {
      host: "127.0.0.1",
      port: 0,
      apiKey: null,
      cors: null,
      waiting: 16,
      onRequest: (report) => void reports.push(report),
      ...options,
    },
  );
  return {
    server,
    reports,
    post: (path, body, init = {}) =>
      fetch(originOf(server) + path, {
        method: "POST",
        body: typeof body === "string" ? body : JSON.stringify(body),
        ...init,
        headers: { "content-type": "application/json", ...(init.headers as Record<string, string> | undefined) },
      }),
    async ended(count) {
      while (reports.length < count) await Bun.sleep(1);
    },
    async received(count) {
      while (encoded.length < count) await Bun.sleep(1);
    },
    encoded: () => encoded,
  };
}

export interface Piece {
  readonly id: string;
  readonly object: string;
  readonly choices: readonly {
    readonly text?: string;
    readonly delta?: { readonly role?: string; readonly content?: string };
    readonly finish_reason: string | null;
  }[];
  readonly usage?: object;
}

/** The events of a stream: pieces, then "[DONE]". */
export async function eventsOf(response: Response): Promise<{ readonly pieces: Piece[]; readonly last: string }> {
  const events = (await response.text()).split("\n\n");
  if (events.pop() !== "") throw new Error("the stream ends inside an event");
  const data = events.map((event) => {
    if (!event.startsWith("data: ")) throw new Error(`no event: ${event}`);
    return event.slice("data: ".length);
  });
  const last = data.pop()!;
  return { pieces: data.map((text) => JSON.parse(text) as Piece), last };
}

/** The answer that the pieces are of. */
export function textOf(pieces: readonly Piece[]): string {
  return pieces.map(({ choices: [choice] }) => choice?.text ?? choice?.delta?.content ?? "").join("");
}

export const CHAT = "/v1/chat/completions";
export const TEXT = "/v1/completions";

export interface Answer {
  readonly object: string;
  readonly model: string;
  readonly choices: readonly [
    {
      readonly message?: { readonly role: string; readonly content: string };
      readonly text?: string;
      readonly finish_reason: string;
    },
  ];
  readonly usage: {
    readonly prompt_tokens: number;
    readonly completion_tokens: number;
    readonly total_tokens: number;
    readonly prompt_tokens_details: { readonly cached_tokens: number };
  };
}

export const said = ({ choices: [{ message, text }] }: Answer): string => message?.content ?? text!;
export const user = (content: unknown) => ({ role: "user", content });

/** The bundled model, served for the tests of a file. */
export interface Served {
  readonly model: ServedModel;
  readonly client: Client;
  /** An answer that is not streamed. */
  ask(path: string, body: object, from?: Client): Promise<Answer>;
  /** A server whose model says `script`. */
  scripted(script: string, options?: Partial<ServerOptions>, maxTokens?: number, tokenizer?: Partial<Tokenizer>): Client;
  /** Another server for the rest of the file. */
  also(client: Client): Client;
}

export function useServed(): Served {
  const closers: (() => unknown)[] = [];
  let model: ServedModel;
  let client: Client;
  const also = (other: Client): Client => {
    closers.push(() => other.server.stop());
    return other;
  };
  beforeAll(async () => {
    const opened = await openServed(join(import.meta.dir, "../../recipes/base/model"));
    closers.push(opened.close);
    model = opened.model;
    client = also(serve(model));
  });
  afterAll(async () => {
    for (const close of closers.reverse()) await close();
  });
  return {
    get model() {
      return model;
    },
    get client() {
      return client;
    },
    async ask(path, body, from = client) {
      const response = await from.post(path, body);
      expect(response.status).toBe(200);
      return (await response.json()) as Answer;
    },
    scripted(script, options = {}, maxTokens = 1024, changed = {}) {
      const decoder = scriptedDecoder(model.tokenizer, model.vocabSize, script, maxTokens);
      const tokenizer = { ...model.tokenizer, ...changed };
      const sampling = { ...model.sampling, maxNewTokens: maxTokens };
      return also(serve({ ...model, tokenizer, decoders: [decoder], sampling }, options));
    },
    also,
  };
}
