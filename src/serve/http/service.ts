import type { AnswerReport } from "../answers.ts";
import { type ApiError, stopping } from "./errors.ts";
import { createGuard, isLoopback } from "./guard.ts";
import { listen, type Listener } from "./listen.ts";
import { createRouter, type Routes } from "./routes.ts";

export interface ServiceOptions {
  readonly host: string;
  /** 0: one that is free. */
  readonly port: number;
  readonly apiKey: string | null;
  readonly cors: string | null;
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

export interface Asked {
  readonly request: Request;
  /** The rest of the path. */
  readonly name: string;
  report(answer: AnswerReport): void;
  /** An answer may be long in coming. */
  wait(): void;
}

/** @throws {ApiError} */
export type Route = (asked: Asked) => Response | Promise<Response>;

/**
 * Listens, and answers by routes those who may ask; all paths but /health are guarded.
 * @param shutdown from when it is aborted nothing is answered any more
 * @throws {UserError} a host or port that cannot be listened on
 */
export function startService(routes: Routes<Route>, options: ServiceOptions, shutdown: AbortSignal): Listener {
  const { host, port } = options;
  const guard = createGuard({ ...options, isLocal: isLoopback(host) });
  const find = createRouter<Route>({ "/health": { GET: () => Response.json({ status: "ok" }) }, ...routes });
  return listen({
    host,
    port,
    headers: guard.headers,
    handle(request, url, { seconds, wait }) {
      const { method } = request;
      const path = url.pathname;
      if (method === "OPTIONS" && options.cors !== null) return new Response(null, { status: 204 });
      if (path !== "/health") guard.check(request, url);
      const { route, params } = find(method, path);
      if (shutdown.aborted) throw stopping();
      const report = (answer: AnswerReport) => {
        const { error } = answer;
        options.onRequest({ method, path, status: error?.status ?? 200, seconds: seconds(), error, answer });
      };
      return route({ request, name: params["name"] ?? "", report, wait });
    },
    onRefused: (method, path, error, seconds) =>
      options.onRequest({ method, path, status: error.status, seconds, error, answer: null }),
  });
}
