import { cpus } from "node:os";
import { existsSync, readFileSync } from "node:fs";
import type { Graph } from "../graph/types.ts";
import { isRecord, writeTextAtomic } from "../hf/files.ts";
import type { Executor } from "../runtime/executor.ts";

/** Measured seconds of programs on one device. A program is known by its content: operators, types, attributes. */
export interface Costs {
  secondsOf(graph: Graph): number | undefined;
  set(graph: Graph, seconds: number): void;
  /** Written by `saveCosts`. */
  toJSON(): CostsFile;
}

interface CostsFile {
  /** What the times depend on besides the programs. */
  readonly device: string;
  /** Program (name, tokens and a hash of its content) -> seconds. */
  readonly seconds: Readonly<Record<string, number>>;
}

/** Executor, threads and processor. */
export function deviceName(executor: Pick<Executor, "name" | "threads">): string {
  const models = [...new Set(cpus().map(({ model }) => model.trim()))];
  return `${executor.name}, ${executor.threads} threads, ${models.join(" + ")}`;
}

export function createCosts(device: string, known: Readonly<Record<string, number>> = {}): Costs {
  const seconds = new Map(Object.entries(known));
  const keys = new Map<Graph, string>();
  const keyOf = (graph: Graph): string => {
    let key = keys.get(graph);
    if (key === undefined) keys.set(graph, (key = contentKey(graph)));
    return key;
  };
  return {
    secondsOf: (graph) => seconds.get(keyOf(graph)),
    set: (graph, value) => void seconds.set(keyOf(graph), value),
    toJSON: () => ({ device, seconds: Object.fromEntries([...seconds].sort(([a], [b]) => (a < b ? -1 : 1))) }),
  };
}

/** Times saved in a run folder; none when there is no such file, it is damaged, or comes from another device. */
export function loadCosts(path: string, device: string): Costs {
  if (!existsSync(path)) return createCosts(device);
  try {
    const file: unknown = JSON.parse(readFileSync(path, "utf8"));
    if (!isRecord(file) || file["device"] !== device || !isRecord(file["seconds"])) return createCosts(device);
    const entries = Object.entries(file["seconds"]).filter(([, value]) => typeof value === "number" && value > 0);
    return createCosts(device, Object.fromEntries(entries) as Record<string, number>);
  } catch {
    // They can be measured again.
    return createCosts(device);
  }
}

export function saveCosts(path: string, costs: Costs): void {
  writeTextAtomic(path, `${JSON.stringify(costs, null, 2)}\n`);
}

function contentKey(graph: Graph): string {
  const types = [...graph.types].map(([name, { dtype, shape }]) => [name, dtype, ...shape]);
  const nodes = graph.nodes.map(({ op, inputs, outputs, attrs }) => [op, inputs, outputs, Object.entries(attrs).sort()]);
  const hash = Bun.hash(JSON.stringify([graph.inputs, graph.outputs, nodes, types])).toString(16).padStart(16, "0");
  return `${graph.name} ${hash}`;
}
