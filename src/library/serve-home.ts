import { existsSync, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { z } from "zod";
import { formatBytes } from "../base/bytes.ts";
import { UserError } from "../base/errors.ts";
import { flagName } from "../base/names.ts";
import { memoryLimit } from "../base/process/free-memory.ts";
import type { ChatSettings } from "../data/chat/settings.ts";
import { type DeviceOptions, openDevice } from "../device.ts";
import { cacheBytes } from "../generate/decoders.ts";
import { roomOf } from "../generate/open-decoder.ts";
import type { SamplingFlags } from "../generate/sampling.ts";
import { type Home, openHome } from "../jobs/home/home.ts";
import { createJobStore } from "../jobs/job-store.ts";
import { checkPrediction, openModel, type OpenModel } from "../load/open-model.ts";
import { kindOf } from "../generate/texts/open-texts.ts";
import { storageOf, type WeightStorage } from "../load/weights.ts";
import type { StreamMode } from "../load/open-weights.ts";
import { nameOf } from "../load/text-head.ts";
import type { Ledger } from "../jobs/ledger.ts";
import { CHECK_BYTES, startHomeServer } from "../serve/home/home-server.ts";
import type { Front } from "../fleet/front/front.ts";
import { FLEET_OPTIONS, type FleetOptions } from "../fleet/options.ts";
import { createHost, type Host, type HostOptions } from "../serve/hosts/host.ts";
import { isLoopback } from "../serve/http/guard.ts";
import type { RequestReport } from "../serve/server.ts";
import { parseMemory } from "../train/memory/limit.ts";
import { type CallOptions, checkOf, chooseSampling, readingOf } from "./options.ts";

/** Options that only a server with a home has. */
export const HOME_OPTIONS = {
  models: z.array(z.string().min(1)).optional().describe("with --home: further base models, each loaded when it is first asked"),
  adapters: z.string().min(1).optional().describe("with --home: folder whose adapters are served, each by its folder's name"),
  memory: z
    .string()
    .min(1)
    .optional()
    .describe("with --home: limit of answering and jobs together, such as 6GiB (80% of this machine's or container's memory)"),
  parallel: z.int().min(1).max(64).optional().describe("with --home: jobs that may train at a time, as memory allows (1)"),
  keepRuns: z
    .int()
    .min(0)
    .optional()
    .describe("with --home: ended jobs whose run folders are kept whole; of older ones the trained model is (all)"),
  ...FLEET_OPTIONS,
  fleet: FLEET_OPTIONS.fleet
    .optional()
    .describe(`with --home: jobs run on the nodes of a fleet (remat node): ${FLEET_OPTIONS.fleet.description}`),
  loadedAdapters: z.int().min(1).optional().describe("with --home: adapters that are in memory at a time (64)"),
} as const;

type HomeOption = keyof typeof HOME_OPTIONS;

/** @throws {UserError} an option of a server with a home */
export function refuseHomeOptions(flags: Readonly<Partial<Record<HomeOption, unknown>>>): void {
  const given = (Object.keys(HOME_OPTIONS) as HomeOption[]).find((key) => flags[key] !== undefined);
  if (given !== undefined)
    throw new UserError(`${flagName(given)} is for a server that trains too; give it a folder with --home`);
}

/** The options of `serve` that a server with a home looks at. */
export interface HomeFlags
  extends ChatSettings, WeightStorage, SamplingFlags, Pick<DeviceOptions, "device" | "threads">, Partial<FleetOptions> {
  readonly home: string;
  readonly stream: StreamMode;
  readonly weightCache: boolean;
  readonly model?: string | undefined;
  readonly models?: readonly string[] | undefined;
  readonly adapter?: string | undefined;
  readonly adapters?: string | undefined;
  readonly memory?: string | undefined;
  readonly parallel?: number | undefined;
  readonly keepRuns?: number | undefined;
  readonly loadedAdapters?: number | undefined;
  readonly name?: string | undefined;
  readonly verify: boolean;
  readonly maxTokens?: number | undefined;
  readonly conversations?: number | undefined;
  readonly host: string;
  readonly port: number;
  readonly waiting: number;
}

/** Part of the machine's memory that is taken where nothing is said of it. */
const SHARE = 0.8;
const LOADED_ADAPTERS = 64;

/** Serves base models and adapters, and trains others, with its state in a folder. @throws {UserError} */
export async function serveHome(
  flags: HomeFlags,
  {
    cors,
    apiKey,
    sink = () => {},
    onRequest,
  }: {
    readonly cors: string | null;
    readonly apiKey: string | null;
    readonly sink: CallOptions["sink"];
    onRequest(report: RequestReport): void;
  },
) {
  if (flags.adapter !== undefined)
    throw new UserError("--adapter is for a server of one model; with --home, put the folder into that of --adapters");
  const models = [...(flags.model === undefined ? [] : [flags.model]), ...(flags.models ?? [])];
  if (models.length === 0) throw new UserError("--model: a base model is needed; it is missing");
  if (flags.name !== undefined && models.length > 1)
    throw new UserError("--name is what clients call the one model; several are called by their folders' names");
  const adapters = flags.adapters === undefined ? null : resolve(flags.adapters);
  if (adapters !== null && !(existsSync(adapters) && statSync(adapters).isDirectory()))
    throw new UserError(`--adapters ${flags.adapters}: there is no such folder`);
  const named = models.map((model) => ({ model, name: flags.name ?? servedName(model) }));
  const twice = named.find(({ name }, i) => named.findIndex((other) => other.name === name) < i);
  if (twice) throw new UserError(`--model: two models are called ${JSON.stringify(twice.name)}; rename the folder of one`);
  const memory = flags.memory === undefined ? Math.floor(SHARE * memoryLimit()) : parseMemory(flags.memory);
  const home = openHome(flags.home);
  const bases: Base[] = [];
  const hosts: Host[] = [];
  let front: Front | null = null;
  const close = () => {
    void front?.stop();
    (hosts.length > 0 ? hosts : bases.map(({ opened }) => opened)).forEach((each) => each.close());
    home.close();
  };
  try {
    let ledger: Ledger | null = null;
    /** Bases whose weights stay in their files. */
    const streamed = new Set<number>();
    const hasRoom = (bytes: number) => ledger === null || bytes <= ledger.free;
    for (const { model, name } of named) bases.push({ name, ...(await openBase(model, name, flags, sink)) });
    const conversations = flags.conversations ?? conversationsOf(bases, flags.maxTokens, memory);
    const makeRoom = async (bytes: number) => {
      // Garbage counts as held, and no job gives way to it.
      Bun.gc(true);
      return ledger === null ? () => {} : ledger.makeRoom(bytes);
    };
    const own = process.memoryUsage.rss() + CHECK_BYTES;
    const taken = () => hosts.reduce((sum, host) => sum + host.bytes(), own);
    const reading = readingOf(flags, (text) => sink({ type: "note", text }));
    const shared = { hasRoom, makeRoom, conversations, reading, stored: flags.stream === "off" ? null : reading };
    hosts.push(...bases.map((base) => hostOf(base, { ...shared, isStreamed: flags.stream === "all" }, flags)));
    // What does not fit stays in its files, the largest models first.
    while (taken() > memory && flags.stream === "auto") {
      const resident = hosts.map((host, i) => ({ i, bytes: host.bytes() })).filter(({ i }) => !streamed.has(i));
      const largest = resident.sort((x, y) => y.bytes - x.bytes)[0];
      if (!largest) break;
      streamed.add(largest.i);
      hosts[largest.i] = hostOf(bases[largest.i]!, { ...shared, isStreamed: true }, flags);
      const text = `${bases[largest.i]!.name}: ${formatBytes(largest.bytes)} do not fit into --memory beside the others; its weights are read from their files for each token`;
      sink({ type: "note", text });
    }
    if (taken() > memory) {
      throw new UserError(
        `--memory ${flags.memory ?? formatBytes(memory)} is not enough: answering with ${named.map(({ name }) => name).join(", ")} takes ${formatBytes(taken())} of it`,
      );
    }
    front = await openFleetOf(flags, home, bases, models);
    const server = startHomeServer({
      home,
      ...(front && { fleet: front }),
      hosts,
      bases: new Map(named.map(({ name, model }) => [name, trainedAs(model)])),
      adapters,
      memory,
      conversations,
      parallel: flags.parallel ?? 1,
      keepRuns: flags.keepRuns ?? null,
      onLedger: (made) => (ledger = made),
      host: flags.host,
      port: flags.port,
      waiting: flags.waiting,
      apiKey,
      cors,
      onRequest,
    });
    if (!isLoopback(flags.host) && apiKey === null)
      sink({
        type: "warning",
        text: `everyone who reaches ${server.url} may use and train models, unless there are keys; --api-key KEY asks for a key`,
      });
    const context = hosts[0]!.maxTokens;
    const all = named.map(({ name }) => name).join(", ");
    sink({ type: "listening", url: server.url, model: all, context });
    return {
      url: server.url,
      model: all,
      context,
      async stop() {
        await server.stop();
        await front?.stop();
        home.close();
      },
    };
  } catch (error) {
    close();
    throw error;
  }
}

/** Joins the fleet of the flags; null: there is none. @throws {UserError} */
async function openFleetOf(
  { fleet, ...flags }: HomeFlags,
  home: Home,
  bases: readonly Base[],
  models: readonly string[],
): Promise<Front | null> {
  if (fleet === undefined) {
    const given = (Object.keys(FLEET_OPTIONS) as (keyof FleetOptions)[]).find(
      (key) => key !== "fleet" && flags[key] !== undefined,
    );
    if (given !== undefined) throw new UserError(`${flagName(given)} is for --fleet; give that too`);
    return null;
  }
  const { openFront } = await import("../fleet/front/front.ts");
  const jobs = createJobStore(home.database);
  return openFront({
    ...flags,
    fleet,
    folder: join(home.folder, "fleet"),
    bases: bases.map(({ name, opened }, i) => ({ name, model: trainedAs(models[i]!), folder: opened.folder })),
    isOver: (job) => (jobs.get(job)?.finished_at ?? null) !== null,
  });
}

/** Returns what training takes as a base model: its folder, or its name on the hub. */
const trainedAs = (model: string): string => (existsSync(model) ? resolve(model) : model);

/** A base model whose files are open. */
interface Base extends Pick<HostOptions, "name" | "sampling"> {
  readonly opened: OpenModel;
}

async function openBase(
  model: string,
  name: string,
  flags: HomeFlags,
  sink: NonNullable<CallOptions["sink"]>,
): Promise<Omit<Base, "name">> {
  const { chatTemplate, templateArgs, specialText } = flags;
  const chats = { chatTemplate, templateArgs, specialText };
  const opened = await openModel(
    { model, ...chats },
    { onNote: (text) => sink({ type: "note", text: `${name}: ${text}` }), check: checkOf(flags), predicts: "anything" },
  );
  try {
    if (opened.adapter)
      throw new UserError(`--model ${model} is an adapter; give its base model, and put the folder into that of --adapters`);
    if (kindOf(opened) === "answers") checkPrediction(opened.config, nameOf(opened));
    const warn = (text: string) => sink({ type: "warning", text });
    return { opened, sampling: chooseSampling({ ...flags, seed: 0 }, opened.folder, warn).options };
  } catch (error) {
    opened.close();
    throw error;
  }
}

const MOST_CONVERSATIONS = 8;
/** Part of the limit that caches take where nothing is said of their number. */
const CACHE_SHARE = 1 / 8;

/** So many conversations, of each base model, that their caches take no more than their share of the limit; at least one. */
function conversationsOf(bases: readonly Base[], maxTokens: number | undefined, memory: number): number {
  const answering = bases.filter(({ opened }) => kindOf(opened) === "answers");
  const bytes = answering.map(({ opened: { config } }) => cacheBytes(config, roomOf(config, maxTokens)));
  if (bytes.length === 0) return 1;
  const fitting = Math.floor((CACHE_SHARE * memory) / bytes.reduce((sum, each) => sum + each, 0));
  return Math.min(MOST_CONVERSATIONS, Math.max(1, fitting));
}

function hostOf(
  { name, opened, sampling }: Base,
  shared: Pick<HostOptions, "hasRoom" | "makeRoom" | "conversations" | "stored" | "isStreamed" | "reading">,
  flags: HomeFlags,
): Host {
  const { device, threads } = flags;
  return createHost({
    name,
    model: opened,
    storage: storageOf(flags),
    maxTokens: flags.maxTokens,
    ...shared,
    adapters: flags.loadedAdapters ?? LOADED_ADAPTERS,
    sampling,
    // Products of few rows are what generation has: the kernels' own are fastest there.
    openDevice: () => openDevice({ device, threads, matmul: "codes" }),
  });
}

/** Returns what clients call a model: a folder's own name, or a name on the hub as it is. */
export function servedName(model: string): string {
  return existsSync(model) ? basename(resolve(model)) : model;
}
