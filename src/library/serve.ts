import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { flagName } from "../base/names.ts";
import { stopTokens } from "../generate/generate.ts";
import { kindOf, type LoadedTexts, openTexts } from "../generate/texts/open-texts.ts";
import { openDecoders } from "../generate/open-decoder.ts";
import { checkPrediction, openModelOnDevice } from "../load/open-model.ts";
import { storageOf } from "../load/weights.ts";
import { nameOf } from "../load/text-head.ts";
import { checkApiKey, isLoopback, readOrigin } from "../serve/http/guard.ts";
import { startTexts } from "../serve/classifiers/server.ts";
import { type ModelServer, type RequestReport, startServer } from "../serve/server.ts";
import {
  type CallOptions,
  CHAT_OPTIONS,
  chooseSampling,
  checkOf,
  MODEL_OPTIONS,
  SAMPLING_OPTIONS,
  validateOptions,
  readingOf,
} from "./options.ts";

import { HOME_OPTIONS, refuseHomeOptions, serveHome, servedName } from "./serve-home.ts";

const { seed: _, ...SAMPLING_DEFAULTS } = SAMPLING_OPTIONS;

export const serveOptionsSchema = z.strictObject({
  ...MODEL_OPTIONS,
  ...CHAT_OPTIONS,
  host: z.string().min(1).default("127.0.0.1").describe("address to listen on; 0.0.0.0: all of this machine's"),
  port: z.int().min(0).max(65535).default(8000).describe("port to listen on; 0: any that is free"),
  name: z.string().min(1).optional().describe("what clients call the model (its folder's name)"),
  apiKey: z.string().min(1).optional().describe("clients need this key (REMAT_API_KEY is not seen by other users)"),
  cors: z.string().min(1).optional().describe("origin whose web pages may use the model, such as http://localhost:3000"),
  waiting: z.int().min(0).default(16).describe("requests that may wait for their turn"),
  conversations: z
    .int()
    .min(1)
    .max(64)
    .optional()
    .describe("conversations whose keys and values are kept, each in memory of its own (1; with --home as many as fit, up to 8)"),
  ...SAMPLING_DEFAULTS,
  home: z
    .string()
    .min(1)
    .optional()
    .describe("folder for uploads, jobs and runs: the server trains too, by OpenAI's fine-tuning API"),
  ...HOME_OPTIONS,
});

export type ServeOptions = z.input<typeof serveOptionsSchema>;

export interface ServeCallOptions extends Pick<CallOptions, "sink"> {
  /** Called for each request that asks for an answer, or is refused, when it is over. */
  readonly onRequest?: ((report: RequestReport) => void) | undefined;
}

/** A server that takes requests. */
export interface RunningServer {
  /** The address that clients take as the base of OpenAI's API. */
  readonly url: string;
  /** The model's name for clients. */
  readonly model: string;
  /** The longest text in tokens, prompt and answer together. */
  readonly context: number;
  /** Cuts the answers that are being made, closes all connections, and frees the model. */
  stop(): Promise<void>;
}

/**
 * Serves a model by OpenAI's API in this process. One request is answered at a time; the event loop gets in between two tokens.
 * @throws {UserError} a model that does not fit, a host or port that cannot be listened on
 */
export async function serve(
  options: ServeOptions,
  { sink = () => {}, onRequest = () => {} }: ServeCallOptions = {},
): Promise<RunningServer> {
  const flags = validateOptions(serveOptionsSchema, options);
  if (flags.home === undefined) refuseHomeOptions(flags);
  const cors = flags.cors === undefined ? null : readOrigin(flags.cors);
  const apiKey = flags.apiKey ?? (process.env["REMAT_API_KEY"] || null);
  if (apiKey !== null) checkApiKey(apiKey, flags.apiKey === undefined ? "REMAT_API_KEY" : "--api-key");
  if (flags.home !== undefined) return serveHome({ ...flags, home: flags.home }, { cors, apiKey, sink, onRequest });
  const { model, executor, close } = await openModelOnDevice(flags, {
    onNote: (text) => sink({ type: "note", text }),
    check: checkOf(flags),
    predicts: "anything",
  });
  try {
    const warn = (text: string) => sink({ type: "warning", text });
    const name = flags.name ?? servedName(flags.adapter ?? flags.model ?? model.folder);
    const isOpen = !isLoopback(flags.host) && apiKey === null;
    const tell = (url: string, context: number) => {
      if (isOpen) warn(`everyone who reaches ${url} may use the model; --api-key KEY asks for a key`);
      sink({ type: "listening", url, model: name, context });
    };
    const kind = kindOf(model);
    if (kind !== "answers") {
      refuseSampling(flags, name, kind);
      const reading = readingOf(flags, (text) => sink({ type: "note", text }));
      const opened = { model: { ...model, ...storageOf(flags), tokenizer: model.tokenizer }, maxTokens: flags.maxTokens };
      const { texts, context, close: closeTexts } = await openTexts(executor, opened, reading);
      const server = startTexts(name, texts, { ...flags, apiKey, cors, onRequest });
      tell(server.url, context);
      return stoppable(server, name, context, () => (closeTexts(), close()));
    }
    checkPrediction(model.config, nameOf(model));
    const { config, tokenizer } = model;
    const { options: sampling, text } = chooseSampling({ ...flags, seed: 0 }, model.folder, warn);
    const room = flags.maxTokens === undefined ? {} : { maxTokens: flags.maxTokens };
    const reading = readingOf(flags, (text) => sink({ type: "note", text }));
    const { each: decoders, close: closeDecoders } = await openDecoders(
      executor,
      { ...model, ...storageOf(flags), ...room },
      flags.conversations ?? 1,
      reading,
    );
    const context = decoders[0]!.maxTokens;
    const server = startServer(
      { name, tokenizer, decoders, vocabSize: config.vocabSize, stop: stopTokens(config, tokenizer), sampling },
      { ...flags, apiKey, cors, onRequest },
    );
    sink({ type: "sampling", text });
    tell(server.url, context);
    return stoppable(server, name, context, () => (closeDecoders(), close()));
  } catch (error) {
    close();
    throw error;
  }
}

/** A server that frees its model when it is stopped. */
function stoppable({ url, stop }: ModelServer, model: string, context: number, free: () => void): RunningServer {
  return {
    url,
    model,
    context,
    async stop() {
      await stop();
      free();
    },
  };
}

/** @throws {UserError} settings of answers, of which a model that reads whole texts makes none */
function refuseSampling(flags: z.output<typeof serveOptionsSchema>, name: string, kind: LoadedTexts["kind"]): void {
  const keys = [...(Object.keys(SAMPLING_DEFAULTS) as (keyof typeof SAMPLING_DEFAULTS)[]), "conversations"] as const;
  const given = keys.find((key) => key !== "maxTokens" && flags[key] !== undefined);
  if (given !== undefined)
    throw new UserError(
      `${flagName(given)} is for models that generate text; ${name} ${kind === "judges" ? "judges texts, by /v1/classify" : "makes embeddings, by /v1/embeddings"}`,
    );
}
