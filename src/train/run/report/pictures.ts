import { drawing, PAGE, type Panel, PAPER, type Style } from "../../../base/charts/drawing.ts";
import { lineChart, type Series } from "../../../base/charts/line-chart.ts";
import type { Axis } from "../../../base/charts/scale.ts";
import { formatBytes } from "../../../base/bytes.ts";
import { formatMetric, METRICS } from "../../../objectives/index.ts";
import { LOSS, type Metric } from "../../../objectives/objective.ts";
import { timelineChart } from "../../../schedule/timeline.ts";
import { type Point, type RunCurves, SMOOTHED } from "./curves.ts";
import type { Facts } from "./facts.ts";

/** A drawing of a run, with a phrase that says what it shows. */
export interface Picture {
  readonly label: string;
  readonly panel: Panel;
}

const STEP: Axis = { label: "step", whole: true, fromData: true, tight: true };

/** Evaluations that are marked besides being joined, at most. */
const MARKED = 60;

const heldOutSeries = (points: readonly Point[]): Series => ({
  name: "held out",
  points,
  shape: points.length <= MARKED ? "both" : "line",
});

/** The loss over the steps: of each step, its moving mean, and that of held-out examples. */
export function lossPicture(curves: RunCurves): Picture {
  const heldOut = curves.heldOut(LOSS.name);
  const panel = lineChart({
    title: "Loss",
    x: STEP,
    y: { label: "loss", fromData: true },
    series: [
      { name: "training", points: curves.trained(LOSS.name), faint: true },
      ...(heldOut.length > 0 ? [heldOutSeries(heldOut)] : []),
      { name: "training, moving mean", points: curves.trained(SMOOTHED) },
    ],
  });
  return { label: "Loss over the steps", panel };
}

/** Metrics of the objective of which there are values. */
export function metricsOf(curves: RunCurves): Metric[] {
  return [...METRICS.values()].filter(
    ({ name }) => name !== LOSS.name && (curves.trained(name).length > 0 || curves.heldOut(name).length > 0),
  );
}

/** A metric as a heading has it. */
export function titleOf({ name, label }: Metric): string {
  const text = label ?? name;
  return text[0]!.toUpperCase() + text.slice(1);
}

/** A metric over the steps, of training and of held-out examples. */
export function metricPicture(curves: RunCurves, metric: Metric): Picture {
  const [trained, heldOut] = [curves.trained(metric.name), curves.heldOut(metric.name)];
  const panel = lineChart({
    title: titleOf(metric),
    x: STEP,
    y: {
      label: `${metric.label ?? metric.name}, ${metric.better} is better`,
      fromData: true,
      format: (value) => formatMetric(metric, value),
    },
    series: [
      ...(trained.length > 0 ? [{ name: "training", points: trained }] : []),
      ...(heldOut.length > 0 ? [heldOutSeries(heldOut)] : []),
    ],
  });
  return { label: `${titleOf(metric)} over the steps`, panel };
}

/** Ratio of the greatest to the least gradient norm from which their axis is logarithmic. */
const WIDE = 50;

/** Everything else that is drawn over the steps: metrics, learning rate, gradient norm, speed. */
export function stepPictures(curves: RunCurves): Picture[] {
  const short = (value: number) => String(Number(value.toPrecision(3)));
  const picture = (title: string, name: string, y: Axis): Picture => ({
    label: `${title} over the steps`,
    panel: lineChart({ title, x: STEP, y, series: [{ name: y.label, points: curves.trained(name) }] }),
  });
  const norms = curves.trained("gradientNorm").map(([, norm]) => norm);
  const positive = norms.filter((norm) => norm > 0);
  const isWide = positive.length > 0 && Math.max(...positive) > WIDE * Math.min(...positive);
  return [
    ...metricsOf(curves).map((metric) => metricPicture(curves, metric)),
    picture("Learning rate", "learningRate", { label: "learning rate", format: short }),
    picture("Gradient norm", "gradientNorm", { label: "norm before clipping", format: short, ...(isWide && { log: 10 }) }),
    picture("Speed", "tokensPerSecond", { label: "tokens per second", format: (value) => String(Math.round(value)) }),
  ];
}

/** The planned memory of a step over its time, with the measured peak. */
export function memoryPicture({ memory }: Facts): Picture {
  const resident = Object.values(memory.resident).reduce((sum, part) => sum + part, 0);
  const panel = timelineChart(memory.timeline, {
    title: "Memory of one step",
    format: formatBytes,
    beneath: { name: "resident", bytes: resident },
    ...(memory.measured > 0 && { line: { name: "measured peak", bytes: memory.measured } }),
  });
  return { label: "Planned memory over the time of one step, with the measured peak", panel };
}

/** Pixels of a drawing that fills a page, and of one that fills a phone or a column. */
const SIZES = { wide: { width: 920, height: 340 }, narrow: { width: 350, height: 290 } } as const;

/** A drawing within a page, of one size; or of two, of which the page's CSS shows one. */
export function inPage({ panel, label }: Picture, sizes: readonly (keyof typeof SIZES)[]): string {
  const draw = (size: keyof typeof SIZES) => drawing([panel], { ...SIZES[size], style: PAGE, label });
  return sizes.map((size) => (sizes.length > 1 ? `<div class="${size}">${draw(size)}</div>` : draw(size))).join("\n");
}

/** A drawing in a file of its own. */
export function inFile({ panel, label }: Picture, style: Style = PAPER): string {
  return drawing([panel], { width: 760, height: 340, style, label });
}
