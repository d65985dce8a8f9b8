import { serve, serveOptionsSchema } from "../../library/serve.ts";
import type { RequestReport } from "../../serve/server.ts";
import type { RequestEvent } from "../../train/run/events.ts";
import { describeFlags } from "../flags/flags.ts";
import { JSON_FLAG, readFlags } from "../flags/model-flags.ts";
import { printEvent } from "../terminal/display.ts";
import { createVerbSink } from "../terminal/verb-events.ts";

const schema = serveOptionsSchema.extend(JSON_FLAG);

export { schema as flags };

export function help(): string {
  return `Serves a model by OpenAI's API: /v1/chat/completions, /v1/responses, /v1/completions, /v1/models, /health. What a request says nothing
about is as the sampling flags say. One request is answered at a time. Ctrl-C ends the server. A classifier or reward model is served by /v1/classify, a reranker by /v1/rerank.

With --home DIR it is a box for a team: it takes uploads and trains by OpenAI's fine-tuning API too, keeps everything in DIR, and what is trained
answers at once. --model may then be given several times.

Usage: remat serve --model DIR [--adapter DIR] [--port 8000] [--flag value ...]
       remat serve --home DIR --model DIR ... [--memory 6GiB] [--flag value ...]

${describeFlags(schema)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const { json, ...options } = readFlags("serve", schema, joinModels(args));
  const say = (line: string) => process.stderr.write(`${line}\n`);
  const sink = createVerbSink(json, (event) => {
    if (event.type === "sampling") say(`sampling: ${event.text}`);
    if (event.type !== "listening") return;
    say(`${JSON.stringify(event.model)} listens on ${event.url} (a context of ${event.context} tokens); Ctrl-C ends`);
    if (options.home !== undefined) say(`the page to train and watch: ${new URL("/", event.url).href}`);
  });
  const server = await serve(options, {
    sink,
    onRequest(report) {
      const cause = report.error?.cause;
      if (cause !== undefined) say(`internal error (please report it): ${cause instanceof Error ? cause.stack : String(cause)}`);
      if (json) printEvent(eventOf(report));
      else say(lineOf(report));
    },
  });
  await interrupted();
  await server.stop();
  return 0;
}

/** `--model A --model B`: the second one and all others are `--models`. */
function joinModels(args: readonly string[]): string[] {
  const rest: string[] = [];
  const models: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!;
    const value = arg.startsWith("--model=") ? arg.slice("--model=".length) : arg === "--model" ? args[i + 1] : undefined;
    if (value === undefined || models.length === 0) rest.push(arg);
    if (value === undefined) continue;
    if (models.length === 0 && arg === "--model") rest.push(value);
    if (arg === "--model") i++;
    models.push(value);
  }
  return models.length < 2 ? [...args] : [...rest, "--models", models.slice(1).join(",")];
}

/** Resolves at Ctrl-C or at a request to end; a second one ends the process at once. */
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
