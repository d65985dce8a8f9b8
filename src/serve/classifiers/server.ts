import type { LoadedTexts } from "../../generate/texts/open-texts.ts";
import { BASE } from "../api/endpoint.ts";
import { modelRoutes } from "../api/model-routes.ts";
import { type Asked, type Route, startService } from "../http/service.ts";
import type { ModelServer, ServerOptions } from "../server.ts";
import { answerClassify } from "./classify.ts";
import { answerEmbeddings } from "./embeddings.ts";
import { answerRanking } from "./rerank.ts";
import { createTextTurns, type FindTexts, type TextTurns } from "./text-turns.ts";

/** Endpoints of models that read whole texts, by path. */
export const TEXT_ENDPOINTS: Readonly<
  Record<string, (find: FindTexts, turns: TextTurns, asked: Pick<Asked, "request" | "report" | "wait">) => Promise<Response>>
> = {
  [`${BASE}/embeddings`]: answerEmbeddings,
  [`${BASE}/classify`]: answerClassify,
  [`${BASE}/rerank`]: answerRanking,
};

/** The endpoints of each kind of model. */
const OF_KIND: Readonly<Record<LoadedTexts["kind"], readonly string[]>> = {
  embeds: [`${BASE}/embeddings`],
  judges: [`${BASE}/classify`, `${BASE}/rerank`],
};

/**
 * Serves an embedder, a classifier, a reward model or a reranker, whose weights are in memory. The event loop gets in between two rows of texts.
 * @throws {UserError} a host or port that cannot be listened on
 */
export function startTexts(name: string, loaded: LoadedTexts, options: ServerOptions): ModelServer {
  const shutdown = new AbortController();
  const { routes, check } = modelRoutes(name);
  const turns = createTextTurns({ waiting: options.waiting, shutdown: shutdown.signal });
  const find: FindTexts = (model) => (check(model), { name, use: (run) => run(loaded) });
  const own = OF_KIND[loaded.kind].map((path): [string, { readonly POST: Route }] => [
    path,
    { POST: (asked) => TEXT_ENDPOINTS[path]!(find, turns, asked) },
  ]);
  const listener = startService({ ...routes, ...Object.fromEntries(own) }, options, shutdown.signal);
  return {
    url: listener.url + BASE,
    async stop() {
      shutdown.abort();
      await listener.stop();
    },
  };
}
