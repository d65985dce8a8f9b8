import type { Job } from "../api/types.ts";
import { fill, h } from "../base/dom.ts";
import { formatNumber, shortName } from "../base/format.ts";
import { type Chart, createChart, type Curve } from "../charts/chart.ts";
import { SERIES_COLOURS } from "../charts/colours.ts";
import { createSmoothed } from "../charts/smooth.ts";
import { createZoom } from "../charts/zoom.ts";
import type { Metric, RunMetrics } from "../state/metrics.ts";

/** A run whose curves are shown. */
export interface ShownRun {
  readonly job: Job;
  readonly metrics: RunMetrics;
}

interface Drawing {
  readonly metric: Metric;
  readonly title: string;
  readonly height: number;
  readonly isSmoothed?: true;
  readonly format?: (value: number) => string;
}

const OTHERS: readonly Drawing[] = [
  { metric: "learning_rate", title: "Learning rate", height: 130, format: (value) => formatNumber(value, 3) },
  { metric: "gradient_norm", title: "Gradient norm", height: 130, isSmoothed: true, format: (value) => formatNumber(value, 3) },
  { metric: "tokens_per_second", title: "Tokens per second", height: 130, format: (value) => formatNumber(value, 4) },
];

const LOSS_HEIGHT = 280;

/** The weight of what was before, by the slider's place. */
const WEIGHTS = [0, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995] as const;
const FIRST_WEIGHT = 3;

/** The curves of a job, or of several jobs to compare, with what changes how they are drawn. @param more stands beside that */
export function jobCharts(runs: () => readonly ShownRun[], more: HTMLElement) {
  const zoom = createZoom(() => {
    const ends = runs().flatMap(({ metrics }) => {
      const { steps, length } = metrics.series("train_loss");
      return length === 0 ? [] : [[steps[0]!, steps[length - 1]!] as const];
    });
    return ends.length === 0 ? [0, 1] : [Math.min(...ends.map(([from]) => from)), Math.max(...ends.map(([, to]) => to))];
  });
  let weight: number = WEIGHTS[FIRST_WEIGHT];
  let isLog = false;
  let charts: readonly Chart[] = [];
  const loss = h("div");
  const others = h("div", { class: "small-charts" });

  const curvesOf = ({ metric, isSmoothed }: Drawing): Curve[] =>
    runs().flatMap(({ job, metrics }, i) => {
      const colour = SERIES_COLOURS[i % SERIES_COLOURS.length]!;
      const isAlone = runs().length === 1;
      const name = isAlone ? "" : shortName(job.remat.name);
      const series = () => metrics.series(metric);
      if (isSmoothed !== true || weight === 0) return [{ name, colour, look: "line", series }];
      return [
        { name, colour, look: "faint", isUnnamed: true, series },
        { name, colour, look: "line", series: createSmoothed(series, weight) },
      ] satisfies Curve[];
    });
  const lossCurves = (): Curve[] => {
    const isAlone = runs().length === 1;
    const trained = curvesOf({ metric: "train_loss", title: "", height: 0, isSmoothed: true }).map((curve) => ({
      ...curve,
      name: isAlone ? "training" : curve.name,
    }));
    const heldOut = runs().map(({ job, metrics }, i): Curve => ({
      name: isAlone ? "held out" : `${shortName(job.remat.name)}, held out`,
      colour: isAlone ? SERIES_COLOURS[1] : SERIES_COLOURS[i % SERIES_COLOURS.length]!,
      look: "points",
      isUnnamed: !isAlone,
      series: () => metrics.series("valid_loss"),
    }));
    return [...trained, ...heldOut];
  };
  const remake = () => {
    charts.forEach((chart) => chart.close());
    const shared = { zoom, group: "job" };
    const first = createChart({ ...shared, title: "Loss", curves: lossCurves(), log: isLog, height: LOSS_HEIGHT });
    const small = OTHERS.map((drawing) =>
      createChart({ ...shared, ...drawing, curves: curvesOf(drawing), log: isLog && drawing.metric === "gradient_norm" }),
    );
    charts = [first, ...small];
    fill(loss, first.element);
    fill(others, ...small.map(({ element }) => element));
    charts.forEach((chart) => chart.update());
  };

  const slider = h("input", {
    type: "range",
    id: "smoothing",
    min: 0,
    max: WEIGHTS.length - 1,
    step: 1,
    value: FIRST_WEIGHT,
    oninput: () => {
      weight = WEIGHTS[Number(slider.value)]!;
      slider.setAttribute("aria-valuetext", String(weight));
      remake();
    },
  });
  const log = h("input", { type: "checkbox", onchange: () => ((isLog = log.checked), remake()) });
  const button = (sign: string, label: string, act: () => void) =>
    h("button", { type: "button", class: "quiet icon", "aria-label": label, title: label, onclick: act }, sign);
  const element = h(
    "section",
    { class: "panel charts", "aria-label": "Curves" },
    h("h2", { class: "unseen" }, "Curves"),
    h(
      "div",
      { class: "tools" },
      h("label", { for: "smoothing" }, "Smoothing"),
      slider,
      h("label", { class: "check" }, log, "Log scale"),
      more,
      h(
        "span",
        { class: "zooms" },
        button("−", "Zoom out", () => zoom.scale(1.6)),
        button("+", "Zoom in", () => zoom.scale(0.6)),
        button("⤢", "Show all steps", () => zoom.set(null)),
      ),
    ),
    loss,
    others,
  );
  return {
    element,
    /** Runs have come or gone. */
    remake,
    update: () => charts.forEach((chart) => chart.update()),
    close: () => charts.forEach((chart) => chart.close()),
  };
}
