import { existsSync } from "node:fs";
import { basename, resolve } from "node:path";
import { z } from "zod";
import { createDecoders } from "../../generate/open-decoder.ts";
import { stopTokens } from "../../generate/generate.ts";
import { isLoopback } from "../../serve/guard.ts";
import { type RequestReport, startServer } from "../../serve/server.ts";
import type { RequestEvent } from "../../train/run/events.ts";
import { printEvent } from "../terminal/display.ts";
import { printNote } from "../terminal/terminal.ts";
import { describeFlags } from "../flags/flags.ts";
import { chooseSampling, MODEL_FLAGS, readFlags, SAMPLING_FLAGS } from "../flags/model-flags.ts";
import { withModel } from "../../load/open-model.ts";

const { seed: _, ...SAMPLING_DEFAULTS } = SAMPLING_FLAGS;

const schema = z.strictObject({
  ...MODEL_FLAGS,
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
    .default(1)
    .describe("conversations whose keys and values are kept, each in memory of its own"),
  ...SAMPLING_DEFAULTS,
  json: z.boolean().default(false).describe("print what happens as JSON lines on standard output"),
});

export { schema as flags };

export function help(): string {
  return `Serves a model by OpenAI's API: /v1/chat/completions, /v1/completions, /v1/models, /health. What a request says nothing
about is as the sampling flags say. One request is answered at a time. Ctrl-C ends the server.

Usage: remat serve --model DIR [--adapter DIR] [--port 8000] [--flag value ...]

${describeFlags(schema)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const flags = readFlags("serve", schema, args);
  return withModel(
    flags,
    async (model, executor) => {
      const { config, tokenizer } = model;
      const { options: sampling, text } = chooseSampling({ ...flags, seed: 0 }, model.folder, flags.json);
      const room = flags.maxTokens === undefined ? {} : { maxTokens: flags.maxTokens };
      const { each: decoders } = createDecoders(executor, { ...model, ...room }, flags.conversations);
      const context = decoders[0]!.maxTokens;
      const name = flags.name ?? nameOf(flags.adapter ?? flags.model ?? model.folder);
      const apiKey = flags.apiKey ?? (process.env["REMAT_API_KEY"] || null);
      const say = (line: string) => process.stderr.write(`${line}\n`);
      const server = startServer(
        { name, tokenizer, decoders, vocabSize: config.vocabSize, stop: stopTokens(config, tokenizer), sampling },
        {
          ...flags,
          apiKey,
          cors: flags.cors ?? null,
          onRequest(report) {
            const cause = report.error?.cause;
            if (cause !== undefined)
              say(`internal error (please report it): ${cause instanceof Error ? cause.stack : String(cause)}`);
            if (flags.json) printEvent(eventOf(report));
            else say(lineOf(report));
          },
        },
      );
      if (!isLoopback(flags.host) && apiKey === null) {
        const warning = `everyone who reaches ${server.url} may use the model; --api-key KEY asks for a key`;
        if (flags.json) printEvent({ type: "warning", text: warning });
        else say(`warning: ${warning}`);
      }
      if (flags.json) printEvent({ type: "listening", url: server.url, model: name, context });
      else {
        say(`sampling: ${text}`);
        say(`${JSON.stringify(name)} listens on ${server.url} (a context of ${context} tokens); Ctrl-C ends`);
      }
      await interrupted();
      await server.stop();
      return 0;
    },
    { onNote: printNote },
  );
}

/** A folder's own name, or a name on the hub as it is. */
function nameOf(model: string): string {
  return existsSync(model) ? basename(resolve(model)) : model;
}

/** Until Ctrl-C or a request to end; a second one ends at once. */
function interrupted(): Promise<void> {
  return new Promise((done) => {
    const end = () => {
      process.off("SIGINT", end);
      process.off("SIGTERM", end);
      done();
    };
    process.on("SIGINT", end);
    process.on("SIGTERM", end);
  });
}

function eventOf({ method, path, status, seconds, error, answer }: RequestReport): RequestEvent {
  return {
    type: "request",
    method,
    path,
    status,
    seconds,
    ...(answer
      ? {
          promptTokens: answer.promptTokens,
          cachedTokens: answer.cachedTokens,
          answerTokens: answer.answerTokens,
          reason: answer.reason,
          waited: answer.waited,
        }
      : {}),
    ...(error ? { message: error.message } : {}),
  };
}

function lineOf({ method, path, status, seconds, error, answer }: RequestReport): string {
  const parts = answer
    ? [
        `${answer.promptTokens} tokens in (${answer.cachedTokens} cached)`,
        `${answer.answerTokens} out`,
        `${seconds.toFixed(1)} s${answer.waited >= 0.05 ? ` (${answer.waited.toFixed(1)} waited)` : ""}`,
      ]
    : [];
  // A message may quote the client.
  const end = (error?.message ?? answer?.reason ?? "").replaceAll(/\p{Cc}/gu, "\uFFFD");
  return `${new Date().toTimeString().slice(0, 8)} ${method} ${path} ${status}: ${[...parts, end].filter(Boolean).join(", ")}`;
}
