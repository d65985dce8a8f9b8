import { show } from "../base/json.ts";
import type { AnswerReport } from "./answers.ts";
import { createResponder } from "./answers.ts";
import { answeringModel, type ServedModel } from "./answer-orders.ts";
import { createCompletions } from "./completions.ts";
import { createEncoder } from "./encoder.ts";
import { ApiError, stopping } from "./http/errors.ts";
import { createGuard, isLoopback } from "./http/guard.ts";
import { listen } from "./http/listen.ts";
import { createRouter } from "./http/routes.ts";
import { BASE } from "./api/endpoint.ts";

export { MOST_BYTES } from "./http/body.ts";

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

interface Asked {
  readonly request: Request;
  /** The rest of the path. */
  readonly name: string;
  report(answer: AnswerReport): void;
  /** An answer may be long in coming. */
  wait(): void;
}

/** @throws {ApiError} */
type Route = (asked: Asked) => Response | Promise<Response>;

/** Serves a model by OpenAI's API. @throws {UserError} a host or port that cannot be listened on */
export function startServer(model: ServedModel, options: ServerOptions): ModelServer {
  const { host, port, waiting } = options;
  const shutdown = new AbortController();
  const guard = createGuard({ ...options, isLocal: isLoopback(host) });
  const served = { model: answeringModel(model), encoder: createEncoder(model.tokenizer) };
  const described = { id: model.name, object: "model", created: Math.floor(Date.now() / 1000), owned_by: "remat" };
  const checkModel = (name: string | undefined): void => {
    if (name === undefined || name === model.name) return;
    throw new ApiError(404, `there is no model ${show(name)} here, but ${show(model.name)}`, {
      param: "model",
      code: "model_not_found",
    });
  };
  const completions = createCompletions({
    respond: createResponder({ waiting, shutdown: shutdown.signal }),
    find: () => served,
    check: checkModel,
  });
  const find = createRouter<Route>({
    "/health": { GET: () => Response.json({ status: "ok" }) },
    [`${BASE}/models`]: { GET: () => Response.json({ object: "list", data: [described] }) },
    [`${BASE}/models/*name`]: {
      GET: ({ name }) => (checkModel(name === encodeURIComponent(model.name) ? model.name : name), Response.json(described)),
    },
    ...Object.fromEntries(
      Object.entries(completions).map(([path, complete]) => [path, { POST: (asked: Asked) => complete(asked.request, asked) }]),
    ),
  });
  const listener = listen({
    host,
    port,
    headers: guard.headers,
    handle(request, url, { seconds, wait }) {
      const { method } = request;
      const path = url.pathname;
      if (method === "OPTIONS" && options.cors !== null) return new Response(null, { status: 204 });
      if (path !== "/health") guard.check(request, url);
      const { route, params } = find(method, path);
      if (shutdown.signal.aborted) throw stopping();
      const report = (answer: AnswerReport) => {
        const { error } = answer;
        options.onRequest({ method, path, status: error?.status ?? 200, seconds: seconds(), error, answer });
      };
      return route({ request, name: params["name"] ?? "", report, wait });
    },
    onRefused: (method, path, error, seconds) =>
      options.onRequest({ method, path, status: error.status, seconds, error, answer: null }),
  });
  return {
    url: listener.url + BASE,
    async stop() {
      shutdown.abort();
      await listener.stop();
      served.encoder.close();
    },
  };
}
