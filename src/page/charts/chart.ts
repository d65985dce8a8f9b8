import uPlot from "uplot";
import { fill, h, write } from "../base/dom.ts";
import { formatNumber } from "../base/format.ts";
import { watchTheme } from "../base/theme.ts";
import type { Series } from "./series.ts";
import { colourOf } from "./colours.ts";
import { decimate } from "./decimate.ts";
import type { Zoom } from "./zoom.ts";

/** A curve of a chart. */
export interface Curve {
  readonly name: string;
  /** The variable of its colour. */
  readonly colour: string;
  readonly look: "line" | "faint" | "points";
  /** Not named above the chart. */
  readonly isUnnamed?: boolean;
  series(): Series;
}

export interface ChartOptions {
  readonly title: string;
  /** Counted along the chart (default: steps). */
  readonly over?: "steps" | "rounds";
  readonly curves: readonly Curve[];
  readonly zoom: Zoom;
  readonly log: boolean;
  /** Charts of a group show the same step under the pointer. */
  readonly group: string;
  readonly height: number;
  format?(value: number): string;
}

export interface Chart {
  readonly element: HTMLElement;
  /** Draws what has changed, as soon as it is in sight. */
  update(): void;
  close(): void;
}

/** Pixels of a chart of which two values are shown, at least. */
const PIXELS_PER_BUCKET = 1;
/** Share of what is shown by which a key moves the chart, and factor by which another one zooms. */
const KEY_PAN = 0.2;
const KEY_ZOOM = 0.7;

/** A chart of curves over the steps of a run, or the rounds of a federation. Keys, wheel and pointer move all charts of a group together. */
export function createChart(options: ChartOptions): Chart {
  const { title, over = "steps", curves, zoom, format = formatNumber } = options;
  const values = curves.map(() => h("b", { class: "value" }));
  const legend = curves.map(({ name, colour, isUnnamed }, i) =>
    isUnnamed
      ? null
      : h(
          "span",
          { class: "key" },
          name === "" ? null : h("i", { class: "swatch", style: { background: `var(${colour})` } }),
          `${name} `,
          values[i]!,
        ),
  );
  const plot = h("div", {
    class: "plot",
    tabindex: 0,
    role: "img",
    "aria-label": `${title} over the ${over}. Arrow keys move, plus and minus zoom, 0 shows all.`,
  });
  const element = h(
    "figure",
    { class: "chart" },
    h("figcaption", {}, h("h3", {}, title), h("span", { class: "keys" }, ...legend)),
    plot,
  );

  let drawn: uPlot | null = null;
  let isInSight = false;
  let isStale = true;
  let frame = 0;

  const data = (): uPlot.AlignedData => {
    const all = curves.map((curve) => curve.series());
    const [from, to] = zoom.range ?? extentOf(all);
    const buckets = Math.max(50, Math.floor((plot.clientWidth || 400) / PIXELS_PER_BUCKET));
    return decimate(all, from, to, buckets) as uPlot.AlignedData;
  };
  const draw = () => {
    frame = 0;
    isStale = false;
    const all = curves.map((curve) => curve.series());
    const [min, max] = zoom.range ?? extentOf(all);
    drawn ??= make();
    drawn.batch(() => {
      drawn!.setData(data(), false);
      drawn!.setScale("x", { min, max });
    });
    showValues(null);
  };
  // A task of its own for each chart: none of them holds up the pointer.
  const update = () => {
    isStale = true;
    if (isInSight && frame === 0) frame = requestAnimationFrame(() => setTimeout(() => frame !== 0 && draw()));
  };
  const showValues = (index: number | null) => {
    curves.forEach((curve, i) => {
      if (curve.isUnnamed) return;
      const column = drawn?.data[i + 1];
      const { length, values: all } = curve.series();
      const value = index === null ? (length > 0 ? all[length - 1] : null) : nearest(column, index);
      write(values[i]!, value === null || value === undefined ? "" : format(value));
    });
  };
  const make = (): uPlot => {
    const settings = settingsOf(options, Math.max(160, plot.clientWidth), showValues);
    const made = new uPlot(settings, [[], ...curves.map(() => [])], plot);
    made.over.addEventListener("dblclick", () => zoom.set(null));
    return made;
  };

  const remake = () => {
    drawn?.destroy();
    drawn = null;
    update();
  };
  const sight = new IntersectionObserver((entries) => {
    isInSight = entries.at(-1)!.isIntersecting;
    if (isInSight && isStale) update();
  });
  const size = new ResizeObserver(() => {
    if (drawn && plot.clientWidth > 0 && drawn.width !== plot.clientWidth) {
      drawn.setSize({ width: plot.clientWidth, height: options.height });
      update();
    }
  });
  sight.observe(plot);
  size.observe(plot);
  listenToHand(plot, zoom);
  const unwatch = [zoom.watch(update), watchTheme(remake)];
  return {
    element,
    update,
    close() {
      cancelAnimationFrame(frame);
      frame = 0;
      sight.disconnect();
      size.disconnect();
      unwatch.forEach((end) => end());
      drawn?.destroy();
      fill(plot);
    },
  };
}

/** The look of a chart, and what the pointer does in it. @param showValues is told the index of the data under the pointer */
function settingsOf(options: ChartOptions, width: number, showValues: (index: number | null) => void): uPlot.Options {
  const { curves, zoom, log, format = formatNumber } = options;
  const axis = (size: number, space: number, show: (value: number) => string): uPlot.Axis => ({
    stroke: colourOf("--muted"),
    font: "12px system-ui, sans-serif",
    size,
    space,
    grid: { stroke: colourOf("--grid"), width: 1 },
    ticks: { show: false },
    values: (_, splits) => splits.map((value) => (value === null || value === undefined ? "" : show(value))),
  });
  return {
    width,
    height: options.height,
    legend: { show: false },
    cursor: {
      sync: { key: options.group, scales: ["x", null] },
      points: { size: 6 },
      drag: { x: true, y: false, setScale: false, dist: 6 },
      y: false,
    },
    scales: { x: { time: false }, y: log ? { distr: 3 } : {} },
    axes: [axis(28, 60, (value) => (Number.isInteger(value) ? value.toLocaleString("en") : "")), axis(56, 28, format)],
    series: [
      {},
      ...curves.map(({ colour, look }): uPlot.Series => {
        const stroke = colourOf(colour);
        const isPoints = look === "points";
        return {
          stroke,
          alpha: look === "faint" ? 0.28 : 1,
          width: look === "faint" ? 1 : 1.6,
          spanGaps: true,
          points: { show: isPoints, size: 5, fill: stroke, stroke },
        };
      }),
    ],
    hooks: {
      setCursor: [(plotted) => showValues(plotted.cursor.idx ?? null)],
      setSelect: [
        (plotted) => {
          const { left, width } = plotted.select;
          if (width < 6) return;
          zoom.set([plotted.posToVal(left, "x"), plotted.posToVal(left + width, "x")]);
          plotted.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        },
      ],
    },
  };
}

/** Keys, wheel and touch, which move and zoom. */
function listenToHand(plot: HTMLElement, zoom: Zoom): void {
  const keys: Readonly<Record<string, () => void>> = {
    ArrowLeft: () => zoom.pan(-KEY_PAN),
    ArrowRight: () => zoom.pan(KEY_PAN),
    "+": () => zoom.scale(KEY_ZOOM),
    "=": () => zoom.scale(KEY_ZOOM),
    "-": () => zoom.scale(1 / KEY_ZOOM),
    "0": () => zoom.set(null),
  };
  plot.addEventListener("keydown", (event) => {
    const act = event.ctrlKey || event.metaKey || event.altKey ? undefined : keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  // The wheel alone scrolls the page; sideways it moves the chart, and with Ctrl, as a pinch is told, it zooms.
  plot.addEventListener(
    "wheel",
    (event) => {
      const { left, width } = plot.getBoundingClientRect();
      if (event.ctrlKey) zoom.scale(Math.exp(event.deltaY / 300), (event.clientX - left) / width);
      else if (zoom.range !== null && Math.abs(event.deltaX) > Math.abs(event.deltaY)) zoom.pan(event.deltaX / width);
      else return;
      event.preventDefault();
    },
    { passive: false },
  );
  let at: number | null = null;
  plot.addEventListener("touchstart", (event) => (at = event.touches.length === 1 ? event.touches[0]!.clientX : null), {
    passive: true,
  });
  plot.addEventListener(
    "touchmove",
    (event) => {
      if (at === null || zoom.range === null) return;
      const now = event.touches[0]!.clientX;
      zoom.pan((at - now) / plot.clientWidth);
      at = now;
    },
    { passive: true },
  );
}

function extentOf(all: readonly Series[]): readonly [number, number] {
  const filled = all.filter(({ length }) => length > 0);
  if (filled.length === 0) return [0, 1];
  const from = Math.min(...filled.map(({ steps }) => steps[0]!));
  const to = Math.max(...filled.map(({ steps, length }) => steps[length - 1]!));
  return [from, Math.max(to, from + 1)];
}

/** The value at an index of a column, or the nearest one before it. */
function nearest(column: ArrayLike<number | null | undefined> | undefined, index: number): number | null {
  for (let i = index; column && i >= 0 && i > index - 40; i--) {
    const value = column[i];
    if (value !== null && value !== undefined) return value;
  }
  return null;
}
