import { get } from "../api/client.ts";
import type { BoxMemory, Job, RunReport } from "../api/types.ts";
import { drawing, PAGE } from "../../base/charts/drawing.ts";
import { timelineChart } from "../../schedule/timeline.ts";
import { fill, h, svgOf, write } from "../base/dom.ts";
import { formatBytes } from "../base/format.ts";
import { partsBar } from "../parts/parts-bar.ts";
import { hasReport, isOver } from "../parts/status.ts";

/** Milliseconds between two looks at how much memory is taken. */
const LOOK_MS = 2000;

/** Names of what stays in memory while a job trains, as people call it. */
const PARTS: Readonly<Record<string, string>> = {
  frozen: "weights",
  window: "window of streamed weights",
  trainable: "adapters",
  gradients: "gradients",
  optimizer: "optimizer state",
  batch: "batch",
  carried: "carried values",
  logits: "logits",
  checks: "checks",
};

/** The memory of a job now against its plan: part by part, and over the time of a step as the planner draws it. */
export function jobMemory(id: string, signal: AbortSignal) {
  const bar = partsBar("Memory of the job");
  const chart = h("div", { class: "timeline" });
  const now = h("p", { class: "muted" });
  const schedule = h("p", { class: "muted small" });
  const element = h(
    "section",
    { class: "panel", "aria-label": "Memory" },
    h("h2", {}, "Memory"),
    now,
    bar.element,
    chart,
    schedule,
  );
  let job: Job | null = null;
  let report: RunReport | null = null;
  let reported = "";

  const draw = () => {
    if (report === null) return;
    const { memory } = report;
    const resident = Object.values(memory.resident).reduce((sum, part) => sum + part, 0);
    const panel = timelineChart(memory.timeline, {
      title: "One step, as planned",
      format: formatBytes,
      beneath: { name: "resident", bytes: resident },
      // Before the first step nothing but what is resident has been touched.
      ...(memory.measured > 1.001 * resident ? { line: { name: "measured peak", bytes: memory.measured } } : {}),
    });
    const width = Math.max(280, Math.min(560, chart.clientWidth || 360));
    fill(chart, svgOf(drawing([panel], { width, height: 300, style: PAGE, label: "Planned memory over the time of a step" })));
    write(
      schedule,
      `Schedule: ${report.schedule}. With everything kept it would be ${formatBytes(memory.without_checkpointing)}.`,
    );
  };
  const showBar = (held: number | null, taken: number | null) => {
    if (job === null) return;
    const { least, most } = job.remat.memory;
    const parts = report
      ? [
          ...Object.entries(report.memory.resident).map(([name, bytes]) => ({ name: PARTS[name] ?? name, bytes })),
          { name: "stash", bytes: report.memory.stash },
          { name: "workspace", bytes: report.memory.workspace },
          { name: "library", bytes: report.memory.temporary },
          // What the process takes besides its plan: Bun, the kernels, the tokenizer.
          { name: "program", bytes: Math.max(0, report.memory.process - report.memory.measured), colour: "--m9" },
        ]
      : [];
    const marks = [
      ...(held === null ? [] : [{ name: "budget", bytes: held }]),
      ...(taken === null ? [] : [{ name: "process now", bytes: taken }]),
    ];
    bar.show(parts, marks);
    const texts = [
      taken === null ? "" : `${formatBytes(taken)} taken now`,
      held === null ? "" : `budget ${formatBytes(held)}`,
      report === null ? `needs ${formatBytes(least)} to ${formatBytes(most)}` : `planned ${formatBytes(report.memory.peak)}`,
    ];
    write(now, texts.filter((text) => text !== "").join(" · "));
  };
  const loadReport = async () => {
    report = await get<RunReport>(`v1/fine_tuning/jobs/${id}/report`, signal);
    draw();
  };
  const look = async () => {
    if (job === null || document.hidden) return;
    try {
      // The report is written when a run begins and at its checkpoints.
      const key = `${job.remat.attempt} ${job.status}`;
      if (key !== reported && hasReport(job)) await loadReport();
      reported = report === null ? "" : key;
      if (isOver(job)) return showBar(null, null);
      const { jobs } = await get<BoxMemory>("v1/memory", signal);
      const own = jobs.find((each) => each.id === id);
      showBar(own?.held ?? null, own?.now ?? null);
    } catch {
      // The connection's sign tells that the server is away.
    }
  };
  const timer = setInterval(() => void look(), LOOK_MS);
  let state = "";
  return {
    element,
    show(shown: Job) {
      job = shown;
      const next = `${shown.status} ${shown.remat.attempt}`;
      if (next !== state) void look();
      state = next;
    },
    /** The run has written its report again. */
    refresh() {
      reported = "";
    },
    close: () => clearInterval(timer),
  };
}
