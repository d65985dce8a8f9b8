import { knownFreeMemory } from "../base/process/free-memory.ts";
import type { Segment } from "../graph/segment.ts";
import type { TensorSource } from "../hf/weights/safetensors.ts";
import type { Programs } from "../runtime/chain.ts";
import type { Executor } from "../runtime/executor.ts";
import { collectParams, type ParamInfo, reserveResident, type Resident, residentBytes } from "../runtime/resident.ts";
import { ALL_RESIDENT, hasHugeTable, mayHaveHugeTable, residencies, type Residency, windowBytes } from "./residency.ts";
import { openWeightStream } from "./stored/stream.ts";
import { storedWeights, type StoredWeightsOptions } from "./stored/stored-weights.ts";
import type { SharedWeights } from "./shared-weights.ts";
import { isOnDisk, openStreamedWeights, type StreamedWeights } from "./streamed-weights.ts";
import { loadWeights } from "./weights.ts";

/** Where frozen weights may lie: in memory if they fit there, in their files as far as can be, in memory. */
export type StreamMode = "auto" | "all" | "off";

/** Share of the free memory that is taken where no limit is asked for. */
export const AUTO_SHARE = 0.8;

/** Bytes of addresses that an executor itself may still take: command buffers, alignment. */
export const SPARE = 2 ** 23;

/** Describes how weights are to be opened that are only read: of generation and evaluation. */
export interface ReadWeightsOptions extends StoredWeightsOptions {
  readonly stream?: StreamMode | undefined;
  /** Weights in the executor's memory that other models have too; absent: this one has its own. */
  readonly shared?: SharedWeights | undefined;
}

export interface ReadWeightsRequest {
  readonly source: TensorSource;
  readonly programs: Programs;
  /** The chains that run, of one set of parameters. */
  readonly chains: readonly (readonly Segment[])[];
  /** Bytes that are reserved besides. */
  readonly bytes: number;
  /** The most tokens of a pass. */
  readonly tokens: number;
}

/** Weights that are only read. */
export interface ReadWeights {
  readonly resident: Resident;
  /** null: all are in memory. */
  readonly streamed: StreamedWeights | null;
}

/** Shares of the weights that are tried to be kept in memory. */
const SHARES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0];

/**
 * Reserves and loads weights for programs that train nothing. What does not fit into memory stays in its files.
 * @throws {UserError} weights that are missing or do not fit; see `storedWeights`
 */
export async function openReadWeights(
  executor: Executor,
  request: ReadWeightsRequest,
  { stream = "auto", shared, ...stored }: ReadWeightsOptions = {},
): Promise<ReadWeights> {
  const { source, programs, chains, tokens } = request;
  const segments = chains[0]!;
  const params = collectParams(segments);
  const free = executor.card ? (executor.card.memory()?.free ?? Infinity) : knownFreeMemory();
  const held = shared?.held(source, params) ?? 0;
  const limit = Math.min(executor.capacity - SPARE, AUTO_SHARE * free) - request.bytes + held;
  const bytesOf = (residency: Residency) =>
    residentBytes(params, null, residency.streamed).frozen + windowBytes(residency, tokens);
  const choose = (): Residency => {
    const isPossible = stream === "all" || (stream === "auto" && executor.reach.kind !== "none");
    const isWhole = stream === "auto" && bytesOf(ALL_RESIDENT) <= limit;
    if (!isPossible || (isWhole && !mayHaveHugeTable(params))) return ALL_RESIDENT;
    const choices = residencies({ executor, programs, params, chains, canStream: (param) => isOnDisk(source, param) });
    if (choices === null || (isWhole && !hasHugeTable(choices.keeping(1, "ample"), params))) return ALL_RESIDENT;
    const shares = stream === "all" ? [0] : [...(choices.hasTables ? [1] : []), ...SHARES];
    const fitting = shares.map((share) => choices.keeping(share, "ample")).find((residency) => bytesOf(residency) <= limit);
    return fitting ?? choices.keeping(0, "least");
  };
  const residency = choose();
  if (residency.streamed.size === 0) {
    return { resident: shared ? loadBeside(executor, request, shared) : loadAll(executor, request), streamed: null };
  }
  const weights = await storedWeights(source, streamedGroups(segments, params, residency.streamed), stored);
  try {
    const resident = reserveResident(executor, segments, null, residency.streamed);
    loadWeights(executor, resident, source);
    return { resident, streamed: openStreamedWeights(executor, residency, tokens, () => openWeightStream(executor, weights)) };
  } catch (error) {
    weights.close();
    throw error;
  }
}

function loadAll(executor: Executor, { source, chains }: ReadWeightsRequest): Resident {
  const resident = reserveResident(executor, chains[0]!);
  loadWeights(executor, resident, source);
  return resident;
}

/** The same of a model that shares weights with others. */
function loadBeside(executor: Executor, { source, chains }: ReadWeightsRequest, shared: SharedWeights): Resident {
  const params = collectParams(chains[0]!);
  const common = shared.place(source, params);
  const own = reserveResident(executor, chains[0]!, null, new Set(common.param.keys()));
  const resident = { ...own, param: new Map([...own.param, ...common.param]) };
  const missing = params.filter(({ name }) => !common.loaded.has(name));
  loadWeights(executor, { params: missing, param: resident.param }, source);
  common.done();
  return resident;
}

/** The parameters in files by segment, as `storedWeights` takes them. */
export function streamedGroups(
  segments: readonly Segment[],
  params: readonly ParamInfo[],
  streamed: ReadonlySet<string>,
): ParamInfo[][] {
  const byName = new Map(params.map((param) => [param.name, param]));
  return segments.map((segment) =>
    [...segment.params.values()].filter((name) => streamed.has(name)).map((name) => byName.get(name)!),
  );
}
