/** Charts as SVG texts: line charts, and the memory of a step over its time. No dependencies, one look. */
import type { ItemKind, Simulation } from "./simulate.ts";

export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
  /** Marks single points instead of joining them. */
  readonly marks?: boolean;
}

export interface Axis {
  readonly label: string;
  /** A logarithmic scale with a tick at each power of this number. */
  readonly log?: number;
  /** Ticks of a linear scale are round numbers of this unit. */
  readonly unit?: number;
  /** Text of a tick. */
  readonly format?: (value: number) => string;
}

export interface Chart {
  readonly title: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly Series[];
}

/** A box of a drawing, in pixels. */
interface Box {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

const WIDTH = 760;
const PANEL_HEIGHT = 380;
const MARGIN = { left: 84, right: 24, top: 44, bottom: 52 };
/** Okabe and Ito's colours, told apart by colour-blind readers too. */
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/** One chart below the other in one SVG. */
export function drawing(panels: readonly ((box: Box) => string)[]): string {
  const height = PANEL_HEIGHT * panels.length;
  const body = panels.map((panel, i) =>
    panel({
      left: MARGIN.left,
      top: i * PANEL_HEIGHT + MARGIN.top,
      width: WIDTH - MARGIN.left - MARGIN.right,
      height: PANEL_HEIGHT - MARGIN.top - MARGIN.bottom,
    }),
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" font-family="system-ui, sans-serif" font-size="12">
<rect width="${WIDTH}" height="${height}" fill="#ffffff"/>
${body.join("\n")}
</svg>
`;
}

/** A line chart with its legend. */
export function lineChart(chart: Chart): (box: Box) => string {
  return (box) => {
    const points = chart.series.flatMap((series) => series.points);
    const scaleX = makeScale(
      chart.x,
      points.map(([x]) => x),
      box.left,
      box.left + box.width,
    );
    const scaleY = makeScale(
      chart.y,
      points.map(([, y]) => y),
      box.top + box.height,
      box.top,
    );
    const lines = chart.series.map(({ points, marks }, i) => {
      const colour = COLOURS[i % COLOURS.length]!;
      const places = points.map(([x, y]) => [scaleX.at(x), scaleY.at(y)] as const);
      const dots = places.map(([x, y]) => `<circle cx="${px(x)}" cy="${px(y)}" r="3" fill="${colour}"/>`).join("");
      if (marks) return dots;
      const path = places.map(([x, y]) => `${px(x)},${px(y)}`).join(" ");
      return `<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"/>${points.length <= 24 ? dots : ""}`;
    });
    return [
      frame(box, chart.title, chart.x, chart.y, scaleX, scaleY),
      ...lines,
      legend(
        box,
        chart.series.map(({ name }) => name),
      ),
    ].join("\n");
  };
}

const STACK: readonly (readonly [kind: ItemKind, name: string])[] = [
  ["boundary", "boundaries"],
  ["tape", "tapes"],
  ["gradient", "gradients of boundaries"],
  ["workspace", "workspace"],
];

/** Live bytes of each kind during a step, stacked over the step's time. */
export function memoryTimeline(
  simulation: Simulation,
  title: string,
  formatBytes: (bytes: number) => string,
): (box: Box) => string {
  const { steps, items, time, peak, transfers } = simulation;
  const totals = STACK.map(() => new Float64Array(steps.length));
  for (const { kind, bytes, first, last } of items) {
    const row = STACK.findIndex(([name]) => name === kind);
    for (let step = first; row >= 0 && step <= last && step < steps.length; step++) totals[row]![step]! += bytes;
  }
  steps.forEach(({ workspace }, step) => (totals[STACK.length - 1]![step] = workspace));
  const ends = steps.map((_, step) => steps[step + 1]?.start ?? time);
  return (box) => {
    const axisX: Axis = {
      label: "time of the step",
      unit: time / 10,
      format: (value) => `${Math.round((100 * value) / time)} %`,
    };
    const axisY: Axis = { label: "stash and workspace", unit: 2 ** 20, format: formatBytes };
    const scaleX = makeScale(axisX, [0, time], box.left, box.left + box.width);
    const scaleY = makeScale(axisY, [0, peak], box.top + box.height, box.top);
    const base = new Float64Array(steps.length);
    const areas = STACK.map((_, row) => {
      const upper: string[] = [];
      const lower: string[] = [];
      steps.forEach(({ start }, step) => {
        const [low, high] = [base[step]!, base[step]! + totals[row]![step]!];
        for (const x of [scaleX.at(start), scaleX.at(ends[step]!)]) {
          upper.push(`${px(x)},${px(scaleY.at(high))}`);
          lower.push(`${px(x)},${px(scaleY.at(low))}`);
        }
        base[step] = high;
      });
      return `<polygon points="${[...upper, ...lower.toReversed()].join(" ")}" fill="${COLOURS[row]!}" fill-opacity="0.75"/>`;
    });
    // Copies lie above fetches, at the lower edge.
    const lanes = (["out", "in"] as const).flatMap((wanted, lane) =>
      transfers
        .filter(({ direction }) => direction === wanted)
        .map(({ start, end }) => {
          const [x, width] = [
            scaleX.at(Math.min(start, time)),
            scaleX.at(Math.min(end, time)) - scaleX.at(Math.min(start, time)),
          ];
          const y = box.top + box.height - LANE * (2 - lane);
          return `<rect x="${px(x)}" y="${px(y)}" width="${px(width)}" height="${LANE - 1}" fill="${COLOURS[STACK.length + lane]!}"/>`;
        }),
    );
    return [
      frame(box, title, axisX, axisY, scaleX, scaleY),
      ...areas,
      ...lanes,
      legend(box, [...STACK.map(([, name]) => name), ...(lanes.length > 0 ? ["copies out", "fetches"] : [])]),
    ].join("\n");
  };
}

/** Pixels of the bars of transfers. */
const LANE = 7;

interface Scale {
  at(value: number): number;
  readonly ticks: readonly number[];
}

function makeScale({ log, unit = 1 }: Axis, values: readonly number[], from: number, to: number): Scale {
  const high = Math.max(...values);
  if (log) {
    const position = (value: number) => Math.log(value) / Math.log(log);
    const ends = [position(Math.min(...values)), position(high)] as const;
    const margin = 0.05 * (ends[1] - ends[0]) || 1;
    const [bottom, top] = [ends[0] - margin, ends[1] + margin];
    const first = Math.ceil(bottom);
    return {
      at: (value) => from + ((position(value) - bottom) / (top - bottom)) * (to - from),
      ticks: Array.from({ length: Math.floor(top) - first + 1 }, (_, i) => log ** (first + i)),
    };
  }
  const low = Math.min(0, ...values);
  const step = unit * niceStep((high - low || unit) / 6 / unit);
  const top = Math.ceil(high / step) * step || step;
  return {
    at: (value) => from + ((value - low) / (top - low)) * (to - from),
    ticks: Array.from({ length: Math.floor((top - low) / step + 1.5) }, (_, i) => low + i * step),
  };
}

/** The nearest 1, 2 or 5 times a power of ten above. */
function niceStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * ([1, 2, 5].find((factor) => factor * power >= least) ?? 10);
}

function frame(box: Box, title: string, x: Axis, y: Axis, scaleX: Scale, scaleY: Scale): string {
  const { left, top, width, height } = box;
  const [right, bottom] = [left + width, top + height];
  const format = (axis: Axis, value: number) => escape(axis.format?.(value) ?? String(Number(value.toPrecision(6))));
  const parts = [
    `<text x="${left}" y="${top - 20}" font-size="15" font-weight="600">${escape(title)}</text>`,
    ...scaleX.ticks.map(
      (value) =>
        `<line x1="${px(scaleX.at(value))}" x2="${px(scaleX.at(value))}" y1="${top}" y2="${bottom}" stroke="#e3e3e3"/><text x="${px(scaleX.at(value))}" y="${bottom + 18}" text-anchor="middle">${format(x, value)}</text>`,
    ),
    ...scaleY.ticks.map(
      (value) =>
        `<line x1="${left}" x2="${right}" y1="${px(scaleY.at(value))}" y2="${px(scaleY.at(value))}" stroke="#e3e3e3"/><text x="${left - 8}" y="${px(scaleY.at(value) + 4)}" text-anchor="end">${format(y, value)}</text>`,
    ),
    `<rect x="${left}" y="${top}" width="${width}" height="${height}" fill="none" stroke="#888888"/>`,
    `<text x="${left + width / 2}" y="${bottom + 40}" text-anchor="middle">${escape(x.label)}</text>`,
    `<text transform="translate(${left - 66} ${top + height / 2}) rotate(-90)" text-anchor="middle">${escape(y.label)}</text>`,
  ];
  return parts.join("\n");
}

function legend({ left, top }: Box, names: readonly string[]): string {
  return names
    .map((name, i) => {
      const y = top + 14 + 18 * i;
      return `<rect x="${left + 12}" y="${y - 9}" width="12" height="10" fill="${COLOURS[i % COLOURS.length]!}"/><text x="${left + 30}" y="${y}">${escape(name)}</text>`;
    })
    .join("\n");
}

const px = (value: number): string => String(Math.round(value * 100) / 100);

const escape = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
