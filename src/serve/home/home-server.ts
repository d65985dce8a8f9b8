import { join } from "node:path";
import { systemCode, UserError } from "../../base/errors.ts";
import { isRecord } from "../../base/json.ts";
import { createEventLog } from "../../jobs/events.ts";
import { isFull } from "../../jobs/home/database.ts";
import { createFileStore } from "../../jobs/home/files.ts";
import { type Home, now } from "../../jobs/home/home.ts";
import { createKeyStore } from "../../jobs/home/keys.ts";
import type { JobPlaces } from "../../jobs/job-config.ts";
import { createJobStore } from "../../jobs/job-store.ts";
import { createLedger, type Ledger, type Serving } from "../../jobs/ledger.ts";
import { createQueue, type QueueOptions } from "../../jobs/queue.ts";
import { createResponder } from "../answers.ts";
import { TEXT_ENDPOINTS } from "../classifiers/server.ts";
import { createTextTurns, type FindTexts, otherEndpoint, type TextTurns } from "../classifiers/text-turns.ts";
import { createCompletions } from "../completions.ts";
import type { Host } from "../hosts/host.ts";
import { ApiError, internalError, stopping } from "../http/errors.ts";
import { isLoopback } from "../http/guard.ts";
import { listen } from "../http/listen.ts";
import { createRouter } from "../http/routes.ts";
import type { ModelServer, ServerOptions } from "../server.ts";
import { AUDIT_FILE, type Caller, checkScope, createAccess, createAudit } from "./access.ts";
import { fileRoutes, MOST_UPLOAD } from "./files-api.ts";
import { fleetRoutes, type HomeFleet } from "./fleet/fleet-api.ts";
import { exportRoutes } from "./exports/exports-api.ts";
import { insightRoutes } from "./insight/insight-api.ts";
import { createLane } from "./insight/lane.ts";
import { previewRoutes } from "./insight/preview-api.ts";
import { jobRoutes } from "./jobs-api.ts";
import { keyRoutes } from "./keys-api.ts";
import { createCounters } from "./metrics-text.ts";
import { modelRoutes } from "./models-api.ts";
import { pageRoutes } from "./page/page-api.ts";
import { createRegistry, type Registry } from "./registry.ts";
import type { HomeRoute, HomeRoutes } from "./route.ts";

export interface HomeServerOptions extends ServerOptions {
  readonly home: Home;
  readonly hosts: readonly Host[];
  /** By the names of the hosts: what training takes as the base model. */
  readonly bases: ReadonlyMap<string, string>;
  /** The folder of adapters that are served; null: none. */
  readonly adapters: string | null;
  /** Bytes that serving and jobs may take together. */
  readonly memory: number;
  /** Answers that are made at a time: every host has a cache for each. */
  readonly conversations: number;
  readonly parallel: number;
  readonly keepRuns: number | null;
  /** Told who holds how much memory, before anything is loaded. */
  readonly onLedger?: ((ledger: Ledger) => void) | undefined;
  /** For tests. */
  readonly queue?: Pick<QueueOptions, "train" | "freeDisk" | "retryMs"> | undefined;
  /** Machines that jobs train on in the place of this one. */
  readonly fleet?: HomeFleet | undefined;
}

/** Bytes of the process that checks a job before it is queued: there is one at a time. */
export const CHECK_BYTES = 160 << 20;

/** Milliseconds without an answer behind which a model makes room for jobs, and between two looks at that. */
const IDLE_MS = 300_000;
const LOOK_MS = 10_000;

/** Bytes of a form around its file. */
const FORM_BYTES = 1 << 20;

/** Serves models, trains others of them, and keeps everything in a home. @throws {UserError} a host or port that cannot be listened on */
export function startHomeServer(options: HomeServerOptions): ModelServer {
  const { home, hosts, host, cors, apiKey, waiting, fleet } = options;
  const shutdown = new AbortController();
  const jobs = createJobStore(home.database);
  const files = createFileStore(home);
  const keys = createKeyStore(home);
  const registry = createRegistry({ database: home.database, hosts, adapters: options.adapters, started: now() }, () => places);
  const places: JobPlaces = { home, files, jobs, bases: options.bases, adapterOf: registry.adapterOf };
  const ledger = createLedger({ limit: options.memory, serving: servingOf(hosts) });
  options.onLedger?.(ledger);
  const unloading = setInterval(() => {
    if (ledger.isShort) for (const each of hosts) each.unload(IDLE_MS);
  }, LOOK_MS);
  unloading.unref();
  const events = createEventLog(home.database, () => queue.wake());
  const queue = createQueue({
    places,
    events,
    ledger,
    parallel: fleet ? Infinity : options.parallel,
    keepRuns: options.keepRuns,
    ...options.queue,
    ...(fleet && { train: fleet.train, isElsewhere: true }),
  });
  const mostForJobs = () => (fleet ? (fleet.mostForJobs() ?? Infinity) : ledger.mostForJobs);
  const access = createAccess({ apiKey, keys, cors, isLocal: isLoopback(host) });
  const audit = createAudit(join(home.folder, AUDIT_FILE));
  const counters = createCounters();
  const lane = createLane();
  const named = (name: unknown) => {
    const model = typeof name === "string" ? registry.find(name) : registry.fallback();
    return model.host.named(model.name, model.adapter);
  };
  const completions = createCompletions({
    respond: createResponder({ waiting, places: options.conversations, shutdown: shutdown.signal }),
    find: (body) => named(isRecord(body) ? (body["model"] ?? undefined) : undefined),
    check: () => {},
  });
  const routes: HomeRoutes = {
    ...pageRoutes(),
    ...monitoringRoutes(() => counters.text({ jobs, queue, ledger, hosts })),
    ...Object.fromEntries(
      Object.entries(completions).map(([path, complete]) => [
        path,
        { POST: { scope: "infer", handle: (asked) => complete(asked.request, asked) } satisfies HomeRoute },
      ]),
    ),
    ...textRoutes(registry, createTextTurns({ waiting, shutdown: shutdown.signal })),
    ...fileRoutes(files, jobs),
    ...jobRoutes({ places, events, queue, ledger, mostForJobs, registry, lane, shutdown: shutdown.signal }),
    ...fleetRoutes(fleet, jobs),
    ...insightRoutes({ places, events, ledger, hosts }),
    ...previewRoutes({ places, registry, lane }),
    ...exportRoutes({ places, registry, ledger, lane }),
    ...modelRoutes(registry, places, options.adapters),
    ...keyRoutes(keys, apiKey !== null),
  };
  const find = createRouter(routes);
  const listener = listen({
    host,
    port: options.port,
    mostBody: MOST_UPLOAD + FORM_BYTES,
    headers: access.headers,
    async handle(request, url, { seconds, wait }) {
      const { method } = request;
      const path = url.pathname;
      if (method === "OPTIONS" && cors !== null) return new Response(null, { status: 204 });
      let caller: Caller | null = null;
      let status = 500;
      try {
        const { route, params } = find(method, path);
        const asking = access.callerFor(route.scope, request, url);
        caller = asking;
        checkScope(asking, route.scope);
        if (shutdown.signal.aborted) throw stopping();
        const response = await route.handle({
          request,
          url,
          params,
          caller: asking,
          wait,
          report(answer) {
            const { error } = answer;
            counters.answer(answer, seconds());
            options.onRequest({ method, path, status: error?.status ?? 200, seconds: seconds(), error, answer });
          },
        });
        status = response.status;
        return response;
      } catch (error) {
        const refused = refusedWith(error);
        status = refused.status;
        throw refused;
      } finally {
        counters.request(status);
        const isAnswer = Object.hasOwn(completions, path) || Object.hasOwn(TEXT_ENDPOINTS, path);
        if (!["GET", "HEAD"].includes(method) && (!isAnswer || status === 401 || status === 403))
          audit.add({ caller: caller?.name ?? "unknown", method, path, status });
      }
    },
    onRefused: (method, path, error, seconds) =>
      options.onRequest({ method, path, status: error.status, seconds, error, answer: null }),
  });
  queue.start();
  return {
    url: `${listener.url}/v1`,
    async stop() {
      shutdown.abort();
      clearInterval(unloading);
      await Promise.all([listener.stop(), queue.drain()]);
      for (const each of hosts) each.close();
    },
  };
}

/** The bytes of this process with its models, and of the one that checks jobs. A model takes its caches by and by. */
function servingOf(hosts: readonly Host[]): Serving {
  const { rss } = process.memoryUsage;
  const idle = rss();
  const bytesOf = (some: readonly Host[]) => Math.max(rss(), idle + some.reduce((sum, host) => sum + host.bytes(), 0));
  return {
    held: () => bytesOf(hosts.filter(({ isLoaded, isLoading }) => isLoaded || isLoading)) + CHECK_BYTES,
    promised: () => bytesOf(hosts) + CHECK_BYTES,
  };
}

/** The endpoints for programs that watch over servers. */
const monitoringRoutes = (metrics: () => string): HomeRoutes => ({
  // Those who watch over servers have no keys.
  "/health": { GET: { scope: null, handle: () => Response.json({ status: "ok" }) } },
  "/metrics": {
    GET: {
      scope: "infer",
      handle: () => new Response(metrics(), { headers: { "content-type": "text/plain; version=0.0.4; charset=utf-8" } }),
    },
  },
});

/** The endpoints of models that read whole texts. */
function textRoutes(registry: Registry, turns: TextTurns): HomeRoutes {
  const find: FindTexts = (asked) => {
    const { name, host, adapter } = asked === undefined ? registry.fallback() : registry.find(asked);
    const kind = host.texts.kindOf(adapter);
    if (kind === "answers") throw otherEndpoint(name, kind);
    return { name, use: (run) => host.texts.use(adapter, run) };
  };
  const routes = Object.entries(TEXT_ENDPOINTS).map(([path, answer]): [string, { readonly POST: HomeRoute }] => [
    path,
    { POST: { scope: "infer", handle: (asked) => answer(find, turns, asked) } },
  ]);
  return Object.fromEntries(routes);
}

/** A mistake that a user can mend is the client's, a full disk the server's. */
function refusedWith(error: unknown): ApiError {
  if (isFull(error) || systemCode(error) === "ENOSPC") {
    const full = new ApiError(507, "the disk of the server is full", { code: "disk_full" });
    full.cause = error;
    return full;
  }
  return error instanceof UserError ? new ApiError(400, error.message, { code: "invalid_value" }) : internalError(error);
}
