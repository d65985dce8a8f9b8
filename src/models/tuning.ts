import { isExpertParameter } from "./adapters/expert-parameters.ts";
import type { LowRankSetup } from "./adapters/low-rank-settings.ts";

/** Adapters beside the base model's weights, which stay as they are but for those that are trained whole. */
export interface AdapterTuning {
  /** The kind of adapter: a row of the table in `adapters/index.ts`. */
  readonly method: string;
  /** Share of the adapters' inputs that is dropped. */
  readonly dropout: number;
  /** The setup of the adapter of a module, as its kind has it, by the full name (`model.layers.3.self_attn.q_proj`); null: the module has none. */
  readonly adapts: (module: string) => object | null;
  /** Which weights of the base model are trained whole, by checkpoint name; without it, none. */
  readonly trains?: (name: string) => boolean;
  /** True if of each low-rank pair the factor that begins random stays as it is. */
  readonly freezeA?: boolean;
  /** True if nothing is trained. */
  readonly frozen: boolean;
  /**
   * True if parameters stay as they are while programs run, so that a value that depends on parameters alone is a parameter too, computed
   * before: where nothing is trained, and between training steps.
   */
  readonly resting?: boolean;
}

/** Weights of the base model. */
export interface FullTuning {
  readonly method: "full";
  /** Which weights are trained, by checkpoint name; without it, all. */
  readonly trains?: (name: string) => boolean;
}

/** Describes what is added to a base model, and what is trained. */
export type Tuning = AdapterTuning | FullTuning;

export function hasAdapters(tuning: Tuning): tuning is AdapterTuning {
  return tuning.method !== "full";
}

/** The base model alone, with nothing trained. */
export const NO_TUNING: AdapterTuning = { method: "lora", dropout: 0, adapts: () => null, frozen: true };

/** Low-rank adapters of one rank and scale. */
export interface UniformAdapters extends LowRankSetup {
  readonly method?: string;
  readonly dropout: number;
  /** Last parts of the names of the adapted modules: `q_proj`, `down_proj`, ... */
  readonly targets: ReadonlySet<string>;
}

/** Trains adapters of one rank and scale in all modules of some names. */
export function uniformAdapters({ method = "lora", dropout, targets, rank, scale }: UniformAdapters): AdapterTuning {
  const setup: LowRankSetup = { rank, scale };
  const adapts = (module: string) => (targets.has(module.split(".").at(-1)!) && !isExpertParameter(module) ? setup : null);
  return { method, dropout, adapts, frozen: false };
}

/** The same between training steps, for decoding: without dropout, and with what can be computed before. */
export function atRest(tuning: Tuning): Tuning {
  return hasAdapters(tuning) ? { ...tuning, dropout: 0, resting: true } : tuning;
}

/** The same without dropout: for evaluation. */
export function withoutDropout(tuning: Tuning): Tuning {
  return hasAdapters(tuning) ? { ...tuning, dropout: 0 } : tuning;
}
