import type { Server } from "bun";
import { messageOf, UserError } from "../../base/errors.ts";
import { type ApiError, errorResponse, internalError } from "./errors.ts";
import { addressOf } from "./guard.ts";

export interface ListenOptions {
  readonly host: string;
  /** 0: one that is free. */
  readonly port: number;
  /** Returns what a browser wants to read beside an answer. */
  headers(request: Request): Readonly<Record<string, string>>;
  /** Bytes of a request's body, at most (Bun's default); whoever reads a body has a limit of its own. */
  readonly mostBody?: number | undefined;
  /** @throws {ApiError} */
  handle(request: Request, url: URL, exchange: Exchange): Response | Promise<Response>;
  /** Called for a request that was refused. */
  onRefused(method: string, path: string, error: ApiError, seconds: number): void;
}

/** The things of the server that a request may want. */
export interface Exchange {
  /** Seconds since the request came. */
  seconds(): number;
  /** An answer may be long in coming. */
  wait(): void;
}

/** A server that takes connections. */
export interface Listener {
  readonly url: string;
  /** Resolves when all connections are closed. */
  stop(): Promise<void>;
}

/** Seconds without a request until a connection is closed. */
const IDLE_SECONDS = 120;
/** The milliseconds that clients have, at the end, to read their answers. */
const FAREWELL_MS = 1000;

/** Listens. @throws {UserError} a host or port that cannot be listened on */
export function listen({ host, port, headers, handle, onRefused, mostBody }: ListenOptions): Listener {
  const answer = async (request: Request, server: Server<undefined>): Promise<Response> => {
    const begin = performance.now();
    const seconds = () => (performance.now() - begin) / 1000;
    const { method } = request;
    let path = request.url;
    try {
      const url = addressOf(request);
      path = url.pathname;
      return await handle(request, url, { seconds, wait: () => server.timeout(request, 0) });
    } catch (thrown) {
      const error = internalError(thrown);
      onRefused(method, path, error, seconds());
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
      ...(mostBody === undefined ? {} : { maxRequestBodySize: mostBody }),
      // Bun's default outside of development lets several servers share a port.
      reusePort: false,
      async fetch(request, server) {
        const response = await answer(request, server);
        for (const [name, value] of Object.entries(headers(request))) response.headers.set(name, value);
        return response;
      },
    });
  } catch (error) {
    throw new UserError(listenProblem(error, host, port));
  }
  return {
    url: server.url.origin,
    async stop() {
      // Resolves when the last connection is closed, which a client may keep open without a request.
      void server.stop();
      const begin = performance.now();
      while (server.pendingRequests > 0 && performance.now() - begin < FAREWELL_MS) await Bun.sleep(5);
      await server.stop(true);
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
