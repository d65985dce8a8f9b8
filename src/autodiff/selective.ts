import type { TrainingPrograms } from "../graph/segment.ts";
import { byteLength, type Node, typeOf } from "../graph/types.ts";
import { nodeSeconds } from "../ops/modelled-time.ts";
import type { JointGraph } from "./differentiate.ts";
import { carriedOf, isFree, partition } from "./partition.ts";

/**
 * Selective saving (after Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198, which recomputes attention alone):
 * a segment in several variants, each with a smaller tape and a backward that computes more of the forward again.
 */
export interface SelectiveOptions {
  /** How many variants to offer besides the one that keeps everything. */
  readonly count: number;
  /** Names (see `isNamed`) of forward values that go into the tape of every variant, where the backward needs them. */
  readonly keep?: readonly string[];
  /** The same of values that go into none. */
  readonly recompute?: readonly string[];
}

/**
 * Tells whether `name` means this value of a node: an operator (`SwiGLU`), or a part of the value's path: `mlp`, `q_proj` and
 * `rotated` all mean `self_attn.q_proj.rotated` or its like.
 */
export function isNamed(name: string, value: string, node: Node): boolean {
  return node.op === name || value === name || value.split(".").includes(name);
}

interface Point {
  readonly tape: ReadonlySet<string>;
  readonly bytes: number;
  /** Modelled time of what the backward computes again. */
  readonly seconds: number;
}

/**
 * All variants of a segment: first the one that keeps everything (but for `recompute`), last the one with the smallest
 * tape, between them those of the best exchange of bytes for time, larger tapes first.
 *
 * The exchange is greedy: from the whole tape on, the value leaves whose absence costs the least time per byte. Values
 * that others can be made from cheaply (a norm from the input) go first, products of matrices last. Of the points on the
 * lower convex hull those are taken that the hull bends most at: between two of them a planner can mix over segments.
 */
export function selectivePrograms(joint: JointGraph, options: SelectiveOptions): TrainingPrograms[] {
  const { keep = [], recompute = [] } = options;
  const named = (names: readonly string[], value: string, node: Node) => names.some((name) => isNamed(name, value, node));
  const whole = partition(joint, (value, node) => !named(recompute, value, node));
  if (options.count === 0) return [whole];
  const producers = producersOf(joint);
  const points = [pointOf(joint, new Set(whole.tape))];
  for (let point = points[0]!; ; points.push(point)) {
    const candidates = [...point.tape].filter((value) => !named(keep, value, producers.get(value)!));
    if (candidates.length === 0) break;
    const next = candidates.map((value) => pointOf(joint, without(point.tape, value)));
    const price = ({ bytes, seconds }: Point) => (seconds - point.seconds) / (point.bytes - bytes);
    point = next.reduce((best, other) => (price(other) < price(best) ? other : best));
  }
  const chosen = thin(lowerHull(points), options.count + 1);
  return chosen.map((point) => (point === points[0] ? whole : partition(joint, (value) => point.tape.has(value))));
}

function producersOf({ graph, forwardNodes }: JointGraph): Map<string, Node> {
  return new Map(graph.nodes.slice(0, forwardNodes).flatMap((node) => node.outputs.map((output) => [output, node] as const)));
}

function without(values: ReadonlySet<string>, value: string): Set<string> {
  const rest = new Set(values);
  rest.delete(value);
  return rest;
}

/** Bytes of a tape, and the time of the forward nodes that run again when the backward starts from it. */
function pointOf(joint: JointGraph, tape: ReadonlySet<string>): Point {
  const { graph, forwardNodes } = joint;
  const producers = producersOf(joint);
  const carried = carriedOf(joint);
  const again = new Set<Node>();
  const need = (value: string): void => {
    const node = producers.get(value);
    if (!node || carried.has(value) || tape.has(value) || again.has(node)) return;
    again.add(node);
    node.inputs.forEach(need);
  };
  for (const node of graph.nodes.slice(forwardNodes)) node.inputs.forEach(need);
  let seconds = 0;
  for (const node of again) if (!isFree(node, graph)) seconds += nodeSeconds(graph, node);
  let bytes = 0;
  for (const value of tape) bytes += byteLength(typeOf(graph, value));
  return { tape, bytes, seconds };
}

/** Points in order of falling bytes, those above the line between two others left out. */
function lowerHull(points: readonly Point[]): Point[] {
  const hull: Point[] = [];
  for (const point of points) {
    while (hull.length > 1 && heightAbove(hull.at(-2)!, point, hull.at(-1)!) >= 0) hull.pop();
    hull.push(point);
  }
  return hull;
}

/** Seconds by which `between` lies above the line through `from` and `to`. */
function heightAbove(from: Point, to: Point, between: Point): number {
  const share = (from.bytes - between.bytes) / (from.bytes - to.bytes);
  return between.seconds - (from.seconds + share * (to.seconds - from.seconds));
}

/** At most `count` points: the two ends, then again and again the one that lies farthest below the chosen line. */
function thin(hull: readonly Point[], count: number): Point[] {
  const chosen = new Set([0, hull.length - 1]);
  while (chosen.size < Math.min(count, hull.length)) {
    const ends = [...chosen].sort((a, b) => a - b);
    let best = -1;
    let depth = -Infinity;
    for (let k = 1; k < ends.length; k++) {
      for (let i = ends[k - 1]! + 1; i < ends[k]!; i++) {
        const below = -heightAbove(hull[ends[k - 1]!]!, hull[ends[k]!]!, hull[i]!);
        if (below > depth) [best, depth] = [i, below];
      }
    }
    chosen.add(best);
  }
  return [...chosen].sort((a, b) => a - b).map((i) => hull[i]!);
}
