import { DECODER_TOKENS, type DecoderPlan } from "../../generate/decoders.ts";
import type { TensorSource } from "../../hf/weights/safetensors.ts";
import { streamedGroups } from "../../load/open-weights.ts";
import { type Residency, residencies } from "../../load/residency.ts";
import { storedWeights, type StoredWeightsOptions } from "../../load/stored/stored-weights.ts";
import { openWeightStream } from "../../load/stored/stream.ts";
import { isOnDisk, openStreamedWeights, type StreamedWeights } from "../../load/streamed-weights.ts";
import type { Programs } from "../../runtime/chain.ts";
import type { Executor } from "../../runtime/executor.ts";
import type { ParamInfo } from "../../runtime/resident.ts";

/** The weights of a base model that are read from their files for each pass, for the base alone and with any adapter. */
export interface StreamedBase {
  /**
   * Reserves the window of a variant's programs, for good.
   * @param own parameters that the variant has in memory in place of the base's
   */
  open(plan: DecoderPlan, params: readonly ParamInfo[], own: readonly ParamInfo[]): StreamedWeights;
  close(): void;
}

/** Describes the base model whose weights stay in their files. */
export interface StreamedBaseRequest {
  readonly executor: Executor;
  readonly programs: Programs;
  readonly source: TensorSource;
  /** The base's own plan and parameters. */
  readonly plan: DecoderPlan;
  readonly params: readonly ParamInfo[];
  /** Texts that are decoded at a time. */
  readonly texts: number;
}

/**
 * Prepares the files of a base model's weights: what is not in them as memory wants it is converted first.
 * @throws {UserError} an executor whose memory other threads do not reach; see `storedWeights`
 */
export async function openStreamedBase(
  { executor, programs, source, plan, params, texts }: StreamedBaseRequest,
  options: StoredWeightsOptions,
): Promise<StreamedBase> {
  const residencyOf = (of: DecoderPlan, all: readonly ParamInfo[], canStream: (param: ParamInfo) => boolean): Residency | null =>
    residencies({ executor, programs, params: all, chains: chainsOf(of), canStream })?.keeping(0, "ample") ?? null;
  const base = residencyOf(plan, params, (param) => isOnDisk(source, param));
  const names = base?.streamed ?? new Set<string>();
  const stored = await storedWeights(source, streamedGroups(chainsOf(plan)[0]!, params, names), options);
  try {
    const stream = openWeightStream(executor, stored);
    const tokens = Math.max(DECODER_TOKENS, texts);
    let shared: StreamedWeights | null = null;
    return {
      open(of, all, own) {
        const ownNames = new Set(own.map(({ name }) => name));
        const residency = residencyOf(of, all, ({ name }) => names.has(name) && !ownNames.has(name));
        const { streamed, window, rowBytes } = residency ?? { streamed: new Set<string>(), window: 0, rowBytes: new Map() };
        const isInside =
          shared !== null && window <= shared.window.bytes && [...rowBytes.keys()].every((name) => shared!.window.rows.has(name));
        // Passes follow each other, so that all shapes share a window, unless one needs more.
        if (!isInside) shared = openStreamedWeights(executor, { streamed, window, rowBytes }, tokens, () => stream);
        const { window: common, rows, close } = shared!;
        return rowBytes.size === 0
          ? { window: { ...common, streamed, rows: new Map() }, rows: null, close }
          : { window: { ...common, streamed }, rows, close };
      },
      close: () => stream.close(),
    };
  } catch (error) {
    stored.close();
    throw error;
  }
}

function chainsOf({ chains, together }: DecoderPlan) {
  return [...chains.values(), ...(together ? [together] : [])];
}

/** Bytes of matrices that a window has room for, in pages of a large one, at most: the one that is read and the one that is used. */
const MOST_PAGE = 32 << 20;

/** Bytes that a base model takes in memory when its weights are streamed, at most: small parameters, and two matrices or pages. */
export function streamedBytes({ tensors }: TensorSource): number {
  const sizes = [...tensors.values()].map(({ bytes }) => bytes);
  const largest = Math.max(0, ...sizes.map((bytes) => Math.min(bytes, MOST_PAGE)));
  return sizes.reduce((sum, bytes) => sum + (bytes < 2 ** 17 ? bytes : 0), 0) + 2 * largest;
}
