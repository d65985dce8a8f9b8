import type { Server } from "bun";
import { messageOf, UserError } from "../base/errors.ts";
import { needsExact, readExactly } from "../base/exact-json.ts";
import { isRecord, parseJson, show } from "../base/json.ts";
import { type AnswerReport, createResponder } from "./answers.ts";
import { ApiError, errorResponse, internalError, refusing, stopping } from "./errors.ts";
import { addressOf, createGuard, isLoopback } from "./guard.ts";
import { chatOrder, type AnswerOrder, type Encode, roomOf, type ServedModel, textOrder } from "./answer-orders.ts";
import { createEncoder } from "./encoder.ts";
import { type AnyRequest, parseChatRequest, parseTextRequest } from "./requests.ts";
import { checkBodySize, type Room } from "./size.ts";
import { BASE, CHAT, type Endpoint, TEXT } from "./responses.ts";

export interface ServerOptions {
  readonly host: string;
  /** 0: one that is free. */
  readonly port: number;
  readonly apiKey: string | null;
  readonly cors: string | null;
  /** Requests that may wait for their turn. */
  readonly waiting: number;
  /** Called for each request that asks for an answer, or is refused, when it is over. */
  onRequest(report: RequestReport): void;
}

/** Describes what became of a request. */
export interface RequestReport {
  readonly method: string;
  readonly path: string;
  readonly status: number;
  readonly seconds: number;
  readonly error: ApiError | null;
  /** null: it was refused before it came to the model. */
  readonly answer: AnswerReport | null;
}

export interface ModelServer {
  /** The address that clients take as the base of OpenAI's API. */
  readonly url: string;
  /** Cuts the answers that are being made, and resolves when all connections are closed. */
  stop(): Promise<void>;
}

/** Bytes of a request. The longest context, written in any language, is shorter. */
export const MOST_BYTES = 4 * 1024 * 1024;
/** Seconds without a request until a connection is closed. */
const IDLE_SECONDS = 120;
/** The milliseconds that clients have, at the end, to read their answers. */
const FAREWELL_MS = 1000;

interface Exchange {
  report(answer: AnswerReport): void;
  /** An answer may be long in coming. */
  wait(): void;
}

/** @throws {ApiError} */
type Route = (request: Request, exchange: Exchange) => Response | Promise<Response>;

/** Serves a model by OpenAI's API. @throws {UserError} a host or port that cannot be listened on */
export function startServer(model: ServedModel, options: ServerOptions): ModelServer {
  const { host, port, waiting } = options;
  const shutdown = new AbortController();
  const guard = createGuard({ ...options, isLocal: isLoopback(host) });
  const respond = createResponder(model, { waiting, shutdown: shutdown.signal });
  const room = roomOf(model);
  const encoder = createEncoder(model.tokenizer);
  const described = { id: model.name, object: "model", created: Math.floor(Date.now() / 1000), owned_by: "remat" };

  const complete =
    <R extends AnyRequest>(
      endpoint: Endpoint,
      parse: (body: unknown) => R,
      toOrder: (model: ServedModel, room: Room, request: R, encode: Encode) => Promise<AnswerOrder>,
    ): Route =>
    async (request, { report, wait }) => {
      const body = await readJson(request);
      checkBodySize(room, body);
      const asked = parse(body);
      wait();
      if (asked.model !== undefined) checkModel(asked.model);
      const prepare = (signal: AbortSignal) => toOrder(model, room, asked, (text, plain) => encoder.encode(text, plain, signal));
      return respond(prepare, {
        endpoint,
        stream: asked.stream ?? false,
        includeUsage: asked.stream_options?.include_usage ?? false,
        signal: request.signal,
        report,
      });
    };
  const checkModel = (name: string): void => {
    if (name === model.name) return;
    throw new ApiError(404, `there is no model ${show(name)} here, but ${show(model.name)}`, {
      param: "model",
      code: "model_not_found",
    });
  };
  const routes: Readonly<Record<string, Readonly<Record<string, Route>>>> = {
    "/health": { GET: () => Response.json({ status: "ok" }) },
    [`${BASE}/models`]: { GET: () => Response.json({ object: "list", data: [described] }) },
    [CHAT.path]: { POST: complete(CHAT, parseChatRequest, chatOrder) },
    [TEXT.path]: { POST: complete(TEXT, parseTextRequest, textOrder) },
  };
  const routeOf = (method: string, path: string): Route => {
    const named = path.startsWith(`${BASE}/models/`) ? path.slice(`${BASE}/models/`.length) : undefined;
    const methods: Readonly<Record<string, Route>> | undefined = Object.hasOwn(routes, path)
      ? routes[path]
      : named === undefined
        ? undefined
        : { GET: () => (checkModel(named === encodeURIComponent(model.name) ? model.name : named), Response.json(described)) };
    if (!methods) throw new ApiError(404, `there is no ${path} here`, { code: "unknown_url" });
    const route = methods[method === "HEAD" ? "GET" : method];
    if (route) return route;
    const allow = Object.keys(methods).join(", ");
    throw new ApiError(405, `${path} takes ${allow}, not ${method}`, { code: "method_not_allowed", headers: { allow } });
  };

  const handle = async (request: Request, server: Server<undefined>): Promise<Response> => {
    const begin = performance.now();
    const { method } = request;
    let path = request.url;
    const tell = (status: number, error: ApiError | null, answer: AnswerReport | null) =>
      options.onRequest({ method, path, status, seconds: (performance.now() - begin) / 1000, error, answer });
    try {
      const url = addressOf(request);
      path = url.pathname;
      if (method === "OPTIONS" && options.cors !== null) return new Response(null, { status: 204 });
      if (path !== "/health") guard.check(request, url);
      const route = routeOf(method, path);
      if (shutdown.signal.aborted) throw stopping();
      return await route(request, {
        report: (answer) => tell(answer.error?.status ?? 200, answer.error, answer),
        wait: () => server.timeout(request, 0),
      });
    } catch (thrown) {
      const error = internalError(thrown);
      tell(error.status, error, null);
      return errorResponse(error);
    }
  };

  let server: Server<undefined>;
  try {
    server = Bun.serve({
      hostname: host,
      port,
      idleTimeout: IDLE_SECONDS,
      development: false,
      // Bun's default outside of development lets several servers share a port.
      reusePort: false,
      async fetch(request, server) {
        const response = await handle(request, server);
        for (const [name, value] of Object.entries(guard.headers(request))) response.headers.set(name, value);
        return response;
      },
    });
  } catch (error) {
    throw new UserError(listenProblem(error, host, port));
  }
  return {
    url: server.url.origin + BASE,
    async stop() {
      shutdown.abort();
      // Resolves when the last connection is closed, which a client may keep open without a request.
      void server.stop();
      const begin = performance.now();
      while (server.pendingRequests > 0 && performance.now() - begin < FAREWELL_MS) await Bun.sleep(5);
      await server.stop(true);
      encoder.close();
    },
  };
}

const LISTEN_PROBLEMS: Readonly<Record<string, string>> = {
  EADDRINUSE: "another program listens there; choose another --port (0: any that is free)",
  EACCES: "ports below 1024 need a privilege; choose another --port",
  ENOENT: "there is no such host name; choose another --host",
  EADDRNOTAVAIL: "this machine has no such address; choose another --host",
};

function listenProblem(error: unknown, host: string, port: number): string {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  return `cannot listen on ${host}:${port}: ${LISTEN_PROBLEMS[code] ?? messageOf(error)}`;
}

/**
 * The body, as JSON. A web page may send other types to any server without asking it, JSON only where `--cors` lets it.
 * @throws {ApiError}
 */
async function readJson(request: Request): Promise<unknown> {
  const type = request.headers.get("content-type") ?? "";
  if (!/^application\/json\s*(?:;|$)/i.test(type)) {
    throw new ApiError(415, `expected Content-Type: application/json, got ${type === "" ? "none" : type}`, {
      code: "unsupported_media_type",
    });
  }
  const tooLarge = () => new ApiError(413, `the request is larger than ${MOST_BYTES} bytes`, { code: "request_too_large" });
  if (Number(request.headers.get("content-length") ?? 0) > MOST_BYTES) throw tooLarge();
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of request.body ?? []) {
    bytes += piece.byteLength;
    if (bytes > MOST_BYTES) throw tooLarge();
    pieces.push(piece);
  }
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(pieces));
  } catch {
    throw new ApiError(400, "the request's body is not UTF-8", { code: "invalid_json" });
  }
  const body = refusing(null, "invalid_json", () => parseJson(text, "the request's body"));
  return withExactParts(body, text);
}

/** Gives the parts of a body that templates print their numbers and keys as they are written; the body's own numbers stay JavaScript's. */
function withExactParts(body: unknown, text: string): unknown {
  if (!isRecord(body)) return body;
  const parts = ["messages", "tools", "chat_template_kwargs"].filter((name) => needsExact(body[name]));
  if (parts.length === 0) return body;
  const exact = readExactly(text) as Readonly<Record<string, unknown>>;
  return { ...body, ...Object.fromEntries(parts.map((name) => [name, exact[name]])) };
}
