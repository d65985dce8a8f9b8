import { createResponder } from "./answers.ts";
import { answeringModel, type ServedModel } from "./answer-orders.ts";
import { BASE } from "./api/endpoint.ts";
import { createCompletions } from "./completions.ts";
import { createEncoder } from "./encoder.ts";
import { type Asked, type ServiceOptions, startService } from "./http/service.ts";
import { modelRoutes } from "./api/model-routes.ts";

export { MOST_BYTES } from "./http/body.ts";
export type { RequestReport } from "./http/service.ts";

export interface ServerOptions extends ServiceOptions {
  /** Requests that may wait for their turn. */
  readonly waiting: number;
}

export interface ModelServer {
  /** The address that clients take as the base of OpenAI's API. */
  readonly url: string;
  /** Cuts the answers that are being made, and resolves when all connections are closed. */
  stop(): Promise<void>;
}

/** Serves a model by OpenAI's API. @throws {UserError} a host or port that cannot be listened on */
export function startServer(model: ServedModel, options: ServerOptions): ModelServer {
  const shutdown = new AbortController();
  const served = { model: answeringModel(model), encoder: createEncoder(model.tokenizer) };
  const { routes, check } = modelRoutes(model.name);
  const completions = createCompletions({
    respond: createResponder({ waiting: options.waiting, shutdown: shutdown.signal }),
    find: () => served,
    check,
  });
  const posts = Object.entries(completions).map(
    ([path, complete]) => [path, { POST: (asked: Asked) => complete(asked.request, asked) }] as const,
  );
  const listener = startService({ ...routes, ...Object.fromEntries(posts) }, options, shutdown.signal);
  return {
    url: listener.url + BASE,
    async stop() {
      shutdown.abort();
      await listener.stop();
      served.encoder.close();
    },
  };
}
