import { messageOf } from "../api/client.ts";
import type { Job } from "../api/types.ts";
import { fill, h, write } from "../base/dom.ts";
import { formatBytes, formatCount, formatNumber, formatTime, shortName } from "../base/format.ts";
import type { View } from "../base/router.ts";
import { note } from "../parts/dialog.ts";
import { jobActions } from "../parts/job-actions.ts";
import { hasReport, progressBar, stateOf, statusPill, timeLeft } from "../parts/status.ts";
import type { Jobs } from "../state/jobs.ts";
import { type Metric, RunMetrics } from "../state/metrics.ts";
import { jobTraffic } from "./fleet/traffic.ts";
import { jobCharts, type ShownRun } from "./job-charts.ts";
import { jobMemory } from "./job-memory.ts";
import { jobTexts } from "./job-texts.ts";

/** A job: its progress, curves, memory, samples, configuration and events. @param others ids of jobs to compare it with */
export function jobView(jobs: Jobs, id: string, others: readonly string[]): View {
  const controller = new AbortController();
  const runs: ShownRun[] = [];
  const compare = compareField(id, others);
  const charts = jobCharts(() => runs, compare.element);
  const unwatch: (() => void)[] = [];

  const openRun = async (job: Job) => {
    const metrics = new RunMetrics();
    runs.push({ job, metrics });
    unwatch.push(
      // The numbers above are those of the newest step: what watches jobs shows them.
      jobs.watchEvents(job.id, (event) => {
        metrics.take(event);
        charts.update();
      }),
    );
    try {
      const loading = metrics.load(job.id, controller.signal);
      charts.remake();
      const timer = setInterval(charts.update, 250);
      await loading.finally(() => clearInterval(timer));
      charts.update();
      update();
    } catch (error) {
      if (!controller.signal.aborted) note(messageOf(error), "error");
    }
  };

  const head = jobHead(jobs, (metric) => {
    const series = runs[0]?.metrics.series(metric);
    return series === undefined || series.length === 0 ? null : series.values[series.length - 1]!;
  });
  const memory = jobMemory(id, controller.signal);
  const texts = jobTexts(jobs, id, controller.signal);
  const traffic = jobTraffic(id, () => jobs.get(id)?.finished_at === null, controller.signal);
  const error = h("p", { class: "problem", hidden: true });
  const missing = h("p", { class: "empty", hidden: true }, `There is no job ${id} here.`);
  const body = h(
    "div",
    { class: "columns" },
    h("div", { class: "wide" }, charts.element, texts.main),
    h("div", { class: "narrow" }, memory.element, ...texts.aside, traffic),
  );
  const element = h("div", { class: "view" }, head.element, error, missing, body);

  let isOpened = false;
  let phase = "";
  const update = () => {
    const job = jobs.get(id);
    missing.hidden = job !== null || !jobs.isLoaded;
    body.hidden = job === null;
    if (job === null) return;
    head.show(job);
    error.hidden = job.error === null;
    write(error, job.error?.message ?? "");
    memory.show(job);
    compare.show(jobs);
    if (!isOpened) {
      isOpened = true;
      const shown = [job, ...others.flatMap((other) => jobs.get(other) ?? [])];
      shown.forEach((each) => void openRun(each));
    }
    const next = `${job.remat.attempt} ${job.status} ${hasReport(job)}`;
    if (phase !== next) texts.refresh(job);
    phase = next;
  };
  update();
  unwatch.push(
    jobs.watch(update),
    jobs.watchEvents(id, ({ message }) => message.startsWith("Checkpoint") && memory.refresh()),
  );
  return {
    title: "Job",
    element,
    close() {
      controller.abort();
      unwatch.forEach((end) => end());
      charts.close();
      memory.close();
      texts.close();
    },
  };
}

/** Says which other jobs the curves are of, and lets others be added. */
function compareField(id: string, others: readonly string[]) {
  const select = h("select", {
    "aria-label": "Compare with another job",
    onchange: () => (location.hash = `#/job/${id}?with=${[...others, select.value].join(",")}`),
  });
  const names = h("span", { hidden: others.length === 0 });
  const alone = h("a", { href: `#/job/${id}`, hidden: others.length === 0 }, "Show this one alone");
  let shown = "";
  return {
    element: h("div", { class: "tools" }, names, select, alone),
    show(jobs: Jobs) {
      const nameOf = (other: string) => shortName(jobs.get(other)?.remat.name ?? other);
      const rest = jobs.list().filter((job) => job.id !== id && !others.includes(job.id));
      const key = rest.map((job) => job.id).join();
      if (key === shown) return;
      shown = key;
      write(names, `Beside ${others.map(nameOf).join(", ")}`);
      select.hidden = rest.length === 0;
      fill(
        select,
        h("option", { value: "" }, "Compare with…"),
        ...rest.map((job) => h("option", { value: job.id }, `${shortName(job.remat.name)} (${formatTime(job.created_at)})`)),
      );
    },
  };
}

/** Name, state, progress, what can be done, and the numbers that people look for first. @param lastOf the newest number of a metric */
function jobHead(jobs: Jobs, lastOf: (metric: Metric) => number | null) {
  const title = h("h1");
  const pill = statusPill();
  const bar = progressBar("Progress of the job");
  const actions = jobActions(jobs);
  const talk = h("a", { class: "button" }, "Chat");
  const again = h("a", { class: "button" }, "Train further");
  const facts = h("p", { class: "muted" });
  const tiles = ["Step", "Loss", "Held-out loss", "Tokens/s", "Memory needed", "Time"].map((name) => {
    const value = h("dd");
    return { name, value, element: h("div", {}, h("dt", {}, name), value) };
  });
  const element = h(
    "header",
    { class: "job-head" },
    h(
      "div",
      { class: "head" },
      h("div", { class: "name" }, title, pill.element),
      h("div", { class: "actions" }, talk, again, actions.element),
    ),
    facts,
    bar.element,
    h("dl", { class: "tiles" }, ...tiles.map((tile) => tile.element)),
  );
  const set = (name: string, text: string) => write(tiles.find((tile) => tile.name === name)!.value, text);
  return {
    element,
    show(job: Job) {
      const { remat } = job;
      write(title, shortName(remat.name));
      pill.show(job);
      bar.show(job);
      actions.show(job);
      talk.hidden = job.fine_tuned_model === null;
      talk.href = `#/chat?right=${encodeURIComponent(remat.name)}&left=${encodeURIComponent(job.model)}`;
      again.hidden = job.fine_tuned_model === null;
      again.href = `#/train?model=${encodeURIComponent(remat.name)}`;
      write(
        facts,
        [
          `from ${job.model}`,
          `created ${formatTime(job.created_at)}`,
          job.trained_tokens === null ? "" : `${formatCount(job.trained_tokens)} tokens trained`,
        ]
          .filter(Boolean)
          .join(" · "),
      );
      set("Step", `${formatCount(remat.step)} / ${formatCount(remat.steps)}`);
      set("Loss", formatNumber(remat.loss ?? lastOf("train_loss")));
      set("Held-out loss", formatNumber(lastOf("valid_loss")));
      set("Tokens/s", formatNumber(remat.tokens_per_second ?? lastOf("tokens_per_second"), 3));
      set("Memory needed", formatBytes(remat.memory.least));
      set("Time", job.finished_at === null ? timeLeft(job) || "–" : formatTime(job.finished_at));
      element.dataset["state"] = stateOf(job);
    },
  };
}
