import { cpus } from "node:os";
import { existsSync, readFileSync } from "node:fs";
import type { Graph } from "../../graph/types.ts";
import { writeTextAtomic } from "../../base/files/files.ts";
import { isRecord } from "../../base/json.ts";
import { modelledSeconds } from "../../ops/modelled-time.ts";
import type { SecondsOf } from "../../runtime/chain.ts";
import type { Executor } from "../../runtime/executor.ts";
import type { Link } from "../../schedule/chain.ts";

/** Measured seconds of programs on one device. A program is known by its content: operators, types, attributes. */
export interface Costs {
  secondsOf(graph: Graph): number | undefined;
  set(graph: Graph, seconds: number): void;
  /**
   * Compares with times measured during steps. When all programs became slower or faster alike, a schedule stays as good
   * as it was; when the rest of the difference is more than `tolerance` of the step, the measured times replace the known
   * ones (the others are scaled) and the answer is true.
   */
  update(measured: ReadonlyMap<Graph, { readonly mean: number; readonly calls: number }>, tolerance: number): boolean;
  /** Bytes per second to and from where boundaries and tapes go. */
  bandwidthOf(target: string): Bandwidth | undefined;
  setBandwidth(target: string, bandwidth: Bandwidth): void;
  /** Takes over the bandwidth seen in steps when it differs by more than `tolerance`, as a share; then the answer is true. */
  updateBandwidth(target: string, seen: Partial<Bandwidth>, tolerance: number): boolean;
  /** Bytes of temporary memory that programs take together; see runtime/temporary.ts. */
  temporaryOf(graphs: readonly Graph[]): number | undefined;
  setTemporary(graphs: readonly Graph[], bytes: number): void;
  /** Written by `saveCosts`. */
  toJSON(): CostsFile;
}

type Bandwidth = Pick<Link, "out" | "in">;

interface CostsFile {
  /** The device, which the times depend on besides the programs. */
  readonly device: string;
  /** Program (name, tokens and a hash of its content) -> seconds. */
  readonly seconds: Readonly<Record<string, number>>;
  /** By target. */
  readonly bandwidth: Readonly<Record<string, Bandwidth>>;
  /** Bytes, by a hash of all programs. */
  readonly temporary: Readonly<Record<string, number>>;
}

/** Executor, threads and processor. */
export function deviceName(executor: Pick<Executor, "name" | "threads">): string {
  const models = [...new Set(cpus().map(({ model }) => model.trim()))];
  return `${executor.name}, ${executor.threads} threads, ${models.join(" + ")}`;
}

export function createCosts(device: string, known: Partial<Omit<CostsFile, "device">> = {}): Costs {
  const seconds = new Map(Object.entries(known.seconds ?? {}));
  const bandwidths = new Map(Object.entries(known.bandwidth ?? {}));
  const temporary = new Map(Object.entries(known.temporary ?? {}));
  const keys = new Map<Graph, string>();
  const keyOf = (graph: Graph): string => {
    let key = keys.get(graph);
    if (key === undefined) keys.set(graph, (key = contentKey(graph)));
    return key;
  };
  const keyOfAll = (graphs: readonly Graph[]): string => hashOf(graphs.map(keyOf).sort());
  return {
    secondsOf: (graph) => seconds.get(keyOf(graph)),
    set: (graph, value) => void seconds.set(keyOf(graph), value),
    update(measured, tolerance) {
      const known = [...measured].filter(([graph]) => seconds.has(keyOf(graph)));
      const before = known.reduce((sum, [graph, { calls }]) => sum + calls * seconds.get(keyOf(graph))!, 0);
      const after = known.reduce((sum, [, { mean, calls }]) => sum + calls * mean, 0);
      if (!(before > 0 && after > 0)) return false;
      const factor = after / before;
      const difference = known.reduce(
        (sum, [graph, { mean, calls }]) => sum + calls * Math.abs(mean - factor * seconds.get(keyOf(graph))!),
        0,
      );
      if (difference <= tolerance * after) return false;
      for (const [key, value] of seconds) seconds.set(key, factor * value);
      for (const [graph, { mean }] of measured) seconds.set(keyOf(graph), mean);
      return true;
    },
    bandwidthOf: (target) => bandwidths.get(target),
    setBandwidth: (target, bandwidth) => void bandwidths.set(target, bandwidth),
    updateBandwidth(target, seen, tolerance) {
      const known = bandwidths.get(target);
      if (!known) return false;
      const next = { out: seen.out ?? known.out, in: seen.in ?? known.in };
      const differs = (a: number, b: number) => Math.abs(a - b) > tolerance * Math.max(a, b);
      if (!differs(next.out, known.out) && !differs(next.in, known.in)) return false;
      bandwidths.set(target, next);
      return true;
    },
    temporaryOf: (graphs) => temporary.get(keyOfAll(graphs)),
    setTemporary: (graphs, bytes) => void temporary.set(keyOfAll(graphs), bytes),
    toJSON: () => ({
      device,
      seconds: Object.fromEntries([...seconds].sort(([a], [b]) => (a < b ? -1 : 1))),
      bandwidth: Object.fromEntries(bandwidths),
      temporary: Object.fromEntries(temporary),
    }),
  };
}

/** Times saved in a run folder; none when there is no such file, it is damaged, or comes from another device. */
export function loadCosts(path: string, device: string): Costs {
  if (!existsSync(path)) return createCosts(device);
  try {
    const file: unknown = JSON.parse(readFileSync(path, "utf8"));
    if (!isRecord(file) || file["device"] !== device || !isRecord(file["seconds"])) return createCosts(device);
    const isPositive = (value: unknown) => typeof value === "number" && value > 0;
    const seconds = Object.entries(file["seconds"]).filter(([, value]) => isPositive(value));
    const bandwidths = isRecord(file["bandwidth"]) ? Object.entries(file["bandwidth"]) : [];
    const bandwidth = bandwidths.filter(([, value]) => isRecord(value) && isPositive(value["out"]) && isPositive(value["in"]));
    const temporary = isRecord(file["temporary"])
      ? Object.entries(file["temporary"]).filter(([, value]) => isPositive(value))
      : [];
    return createCosts(device, {
      seconds: Object.fromEntries(seconds) as CostsFile["seconds"],
      bandwidth: Object.fromEntries(bandwidth) as CostsFile["bandwidth"],
      temporary: Object.fromEntries(temporary) as CostsFile["temporary"],
    });
  } catch {
    // They can be measured again.
    return createCosts(device);
  }
}

export function saveCosts(path: string, costs: Costs): void {
  writeTextAtomic(path, `${JSON.stringify(costs, null, 2)}\n`);
}

/** Measured times, and modelled ones at the measured programs' speed where there are none. */
export function secondsWith(costs: Costs, programs: readonly Graph[]): SecondsOf {
  let [measured, modelled] = [0, 0];
  for (const graph of programs) {
    const seconds = costs.secondsOf(graph);
    if (seconds === undefined) continue;
    measured += seconds;
    modelled += modelledSeconds(graph);
  }
  const factor = modelled > 0 ? measured / modelled : 1;
  return (graph) => costs.secondsOf(graph) ?? factor * modelledSeconds(graph);
}

function contentKey(graph: Graph): string {
  const types = [...graph.types].map(([name, { dtype, shape }]) => [name, dtype, ...shape]);
  const nodes = graph.nodes.map(({ op, inputs, outputs, attrs }) => [op, inputs, outputs, Object.entries(attrs).sort()]);
  return `${graph.name} ${hashOf([graph.inputs, graph.outputs, nodes, types])}`;
}

function hashOf(content: unknown): string {
  return Bun.hash(JSON.stringify(content)).toString(16).padStart(16, "0");
}
