/** The memory of a training step over its time: as numbers, and drawn. */
import { colourOf, type Frame, layOut, type Panel, px } from "../base/charts/drawing.ts";
import { hoverStripe } from "../base/charts/line-chart.ts";
import type { Axis } from "../base/charts/scale.ts";
import type { ItemKind, Simulation } from "./simulate.ts";

/** Kinds of memory, in the order in which they are stacked. */
export const KINDS: readonly (readonly [kind: ItemKind, name: string])[] = [
  ["boundary", "boundaries"],
  ["tape", "tapes"],
  ["gradient", "gradients of boundaries"],
  ["workspace", "workspace"],
];

/** A stretch of the step's time, in which live memory is the same, or stands for that of several steps of the schedule. */
export interface TimelineSlot {
  /** Shares of the step's time. */
  readonly start: number;
  readonly end: number;
  /** Bytes of each of `KINDS`. */
  readonly bytes: readonly number[];
}

/** A copy out or a fetch in, in shares of the step's time. */
export interface TimelineMove {
  readonly direction: "out" | "in";
  readonly start: number;
  readonly end: number;
}

export interface Timeline {
  readonly slots: readonly TimelineSlot[];
  readonly moves: readonly TimelineMove[];
}

/** Slots of a timeline, at most; those of a longer schedule are put together, each group by its highest step. */
const MOST_SLOTS = 600;

/** Returns the live bytes of each kind over a step's time. */
export function timelineOf(simulation: Simulation, most = MOST_SLOTS): Timeline {
  const { steps, items, transfers } = simulation;
  const time = simulation.time || 1;
  const totals = KINDS.map(() => new Float64Array(steps.length));
  for (const { kind, bytes, first, last } of items) {
    const row = KINDS.findIndex(([name]) => name === kind);
    for (let step = first; row >= 0 && step <= last && step < steps.length; step++) totals[row]![step]! += bytes;
  }
  steps.forEach(({ workspace }, step) => (totals[KINDS.length - 1]![step] = workspace));
  const all = steps.map(({ start }, step): TimelineSlot => ({
    start: start / time,
    end: (steps[step + 1]?.start ?? simulation.time) / time,
    bytes: totals.map((row) => row[step]!),
  }));
  const moves = transfers.map(({ direction, start, end }): TimelineMove => ({
    direction,
    start: Math.min(1, start / time),
    end: Math.min(1, end / time),
  }));
  return { slots: merged(all, most, highest), moves: merged(moves, most, (group) => group[0]!) };
}

/** Puts neighbours together so that there are at most `most`, each group's time from its first to its last. */
function merged<T extends { readonly start: number; readonly end: number }>(
  all: readonly T[],
  most: number,
  pick: (group: readonly T[]) => T,
): T[] {
  const size = Math.ceil(all.length / most);
  return Array.from({ length: Math.ceil(all.length / Math.max(1, size)) }, (_, i) => {
    const group = all.slice(i * size, (i + 1) * size);
    return { ...pick(group), start: group[0]!.start, end: group.at(-1)!.end };
  });
}

const totalOf = ({ bytes }: TimelineSlot): number => bytes.reduce((sum, part) => sum + part, 0);

function highest(group: readonly TimelineSlot[]): TimelineSlot {
  return group.reduce((most, slot) => (totalOf(slot) > totalOf(most) ? slot : most));
}

export interface TimelineOptions {
  readonly title: string;
  /** Text of a number of bytes. */
  readonly format: (bytes: number) => string;
  /** Memory below the stash that is there all the time, in bytes. */
  readonly beneath?: { readonly name: string; readonly bytes: number };
  /** A line at a number of bytes, to compare with. */
  readonly line?: { readonly name: string; readonly bytes: number };
}

/** Draws the live bytes of each kind during a step, stacked over the step's time. */
export function timelineChart({ slots, moves }: Timeline, options: TimelineOptions): Panel {
  const { title, format, beneath, line } = options;
  const floor = beneath?.bytes ?? 0;
  const moved = (["out", "in"] as const).filter((wanted) => moves.some(({ direction }) => direction === wanted));
  const names = [
    ...(beneath ? [beneath.name] : []),
    ...KINDS.map(([, name]) => name),
    ...moved.map((direction) => (direction === "out" ? "copies out" : "fetches")),
    ...(line ? [line.name] : []),
  ];
  const x: Axis = { label: "time of the step", unit: 0.1, tight: true, format: (share) => `${Math.round(100 * share)} %` };
  const y: Axis = { label: beneath ? "planned memory" : "stash and workspace", unit: "bytes", format };
  const highestBytes = Math.max(line?.bytes ?? 0, ...slots.map((slot) => floor + totalOf(slot)));
  return (top, size, style) => {
    const frame = layOut({ title, x, y, xs: [0, 1], ys: [0, highestBytes], names }, top, size, style);
    let colour = 0;
    const base = slots.map(() => 0);
    const stack = (valueOf: (slot: TimelineSlot) => number): string => {
      const heights = slots.map(valueOf);
      return area(frame, slots, base, heights, colourOf(style, colour++));
    };
    const areas = [...(beneath ? [stack(() => beneath.bytes)] : []), ...KINDS.map((_, row) => stack(({ bytes }) => bytes[row]!))];
    const lanes = moved.map((direction, lane) =>
      laneOf(
        frame,
        moves.filter((move) => move.direction === direction),
        moved.length - lane,
        colourOf(style, colour++),
      ),
    );
    const { plot } = frame;
    const level = line
      ? `<line x1="${px(plot.left)}" x2="${px(plot.left + plot.width)}" y1="${px(frame.y(line.bytes))}" y2="${px(frame.y(line.bytes))}" stroke="${colourOf(style, colour)}" stroke-width="2" stroke-dasharray="6 4"/>`
      : "";
    const hover = style.hover ? hoverSlots(frame, slots, floor, options) : "";
    return { svg: [frame.svg, ...areas, ...lanes, level, hover].filter((part) => part !== "").join("\n"), height: frame.height };
  };
}

/** A layer of the stack; what is in `base` becomes its upper edge. */
function area(frame: Frame, slots: readonly TimelineSlot[], base: number[], heights: readonly number[], fill: string): string {
  if (slots.length === 0) return "";
  const upper: string[] = [];
  const lower: string[] = [];
  slots.forEach(({ start, end }, i) => {
    const [low, high] = [base[i]!, base[i]! + heights[i]!];
    for (const at of [frame.x(start), frame.x(end)]) {
      upper.push(`${px(at)},${px(frame.y(high))}`);
      lower.push(`${px(at)},${px(frame.y(low))}`);
    }
    base[i] = high;
  });
  return `<polygon points="${[...upper, ...lower.toReversed()].join(" ")}" fill="${fill}" fill-opacity="0.75"/>`;
}

/** Pixels of the bars of transfers. */
const LANE = 7;

/** Bars of transfers at the lower edge; the lowest lane is the first. */
function laneOf({ plot, x }: Frame, moves: readonly TimelineMove[], lane: number, fill: string): string {
  const y = plot.top + plot.height - LANE * lane;
  return moves
    .map(
      ({ start, end }) =>
        `<rect x="${px(x(start))}" y="${px(y)}" width="${px(x(end) - x(start))}" height="${LANE - 1}" fill="${fill}"/>`,
    )
    .join("");
}

/** Stripes under the pointer, at most. */
const MOST_STRIPES = 120;

function hoverSlots(
  { plot, x }: Frame,
  slots: readonly TimelineSlot[],
  floor: number,
  { format, beneath }: TimelineOptions,
): string {
  return merged(slots, MOST_STRIPES, highest)
    .map((slot) => {
      const box = { left: x(slot.start), top: plot.top, width: x(slot.end) - x(slot.start), height: plot.height };
      return hoverStripe(box, [
        `${format(floor + totalOf(slot))} at ${Math.round(100 * slot.start)} % of the step`,
        ...(beneath ? [`${beneath.name}: ${format(floor)}`] : []),
        ...KINDS.map(([, name], row) => `${name}: ${format(slot.bytes[row]!)}`),
      ]);
    })
    .join("");
}
