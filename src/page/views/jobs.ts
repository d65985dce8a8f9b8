import type { Job } from "../api/types.ts";
import { h, keyedList, write } from "../base/dom.ts";
import { formatNumber, formatTime, shortName } from "../base/format.ts";
import type { View } from "../base/router.ts";
import { progressBar, stateOf, statusPill, timeLeft } from "../parts/status.ts";
import { sparkline } from "../parts/sparkline.ts";
import type { Jobs } from "../state/jobs.ts";
import { federationsPanel } from "./fleet/federations.ts";
import { nodesPanel } from "./fleet/nodes.ts";

/** All jobs: those that train first, then those that wait in their order, then those that have ended, the newest first. Below them the nodes and the federations of a fleet. */
export function jobsView(jobs: Jobs): View {
  const chosen = new Set<string>();
  const compare = h("a", { class: "button", hidden: true }, "Compare");
  const showCompare = () => {
    compare.hidden = chosen.size < 2;
    const [first, ...others] = chosen;
    compare.href = `#/job/${first}?with=${others.join(",")}`;
    write(compare, `Compare ${chosen.size} jobs`);
  };
  const choose = (id: string, isChosen: boolean) => {
    if (isChosen) chosen.add(id);
    else chosen.delete(id);
    showCompare();
  };
  const lists = SECTIONS.map(({ title, isIn, isQueue = false }) => {
    const list = h("ul", { class: "jobs" });
    const count = h("span", { class: "count" });
    const section = h("section", {}, h("h2", {}, title, " ", count), list);
    const show = keyedList<Job>(list, {
      key: ({ id }) => id,
      make: (job) => jobRow(jobs, job, { isChosen: chosen.has(job.id), choose }),
    });
    return (all: readonly Job[]) => {
      const own = all.filter((job) => isIn(job));
      if (isQueue) own.reverse();
      section.hidden = own.length === 0;
      write(count, String(own.length));
      show(own);
      return section;
    };
  });
  const empty = h(
    "div",
    { class: "empty", hidden: true },
    h("h2", {}, "Nothing has been trained here yet"),
    h("p", {}, "Upload a file of conversations, look at how the model sees them, and start."),
    h("a", { class: "button primary", href: "#/train" }, "Train a model"),
  );
  const update = () => {
    const all = jobs.list();
    lists.forEach((show) => show(all));
    empty.hidden = !jobs.isLoaded || all.length > 0;
  };
  const sections = lists.map((show) => show([]));
  const panels = [nodesPanel(jobs), federationsPanel()];
  const element = h(
    "div",
    { class: "view" },
    h(
      "div",
      { class: "head" },
      h("h1", {}, "Jobs"),
      h("div", { class: "actions" }, compare, h("a", { class: "button primary", href: "#/train" }, "Train a model")),
    ),
    empty,
    ...sections,
    ...panels.map((panel) => panel.element),
  );
  update();
  const unwatch = jobs.watch(update);
  return {
    title: "Jobs",
    element,
    close() {
      unwatch();
      panels.forEach((panel) => panel.close());
      lists.forEach((show) => show([]));
    },
  };
}

const SECTIONS: readonly { readonly title: string; readonly isQueue?: true; isIn(job: Job): boolean }[] = [
  { title: "Training", isIn: ({ status }) => status === "running" },
  { title: "Queue", isQueue: true, isIn: ({ status }) => status === "queued" },
  { title: "Ended", isIn: ({ finished_at }) => finished_at !== null },
];

function jobRow(
  jobs: Jobs,
  first: Job,
  { isChosen, choose }: { readonly isChosen: boolean; choose(id: string, isChosen: boolean): void },
) {
  const name = shortName(first.remat.name);
  const pill = statusPill();
  const bar = progressBar(`Progress of ${name}`);
  const facts = h("span", { class: "muted facts" });
  const loss = h("span", { class: "loss" });
  const curve = sparkline(jobs, first, (value) => write(loss, `loss ${formatNumber(value, 3)}`));
  const box = h("input", {
    type: "checkbox",
    "aria-label": `Compare ${name}`,
    checked: isChosen,
    onchange: (event: Event) => choose(first.id, (event.target as HTMLInputElement).checked),
  });
  const element = h(
    "li",
    { class: "job" },
    h("label", { class: "choose" }, box),
    h(
      "a",
      { href: `#/job/${first.id}` },
      h("span", { class: "name" }, h("b", {}, name), h("span", { class: "muted" }, first.model)),
      h("span", { class: "state" }, pill.element),
      h("span", { class: "progress" }, bar.element, facts),
      curve.element,
      loss,
    ),
  );
  const update = (job: Job) => {
    pill.show(job);
    bar.show(job);
    write(facts, factsOf(job));
    element.dataset["state"] = stateOf(job);
  };
  update(first);
  return { element, update, close: curve.close };
}

function factsOf(job: Job): string {
  const { step, steps, tokens_per_second } = job.remat;
  const state = stateOf(job);
  if (state === "failed") return job.error?.message ?? "";
  if (job.finished_at !== null) return `${step} of ${steps} steps · ${formatTime(job.finished_at)}`;
  const parts = [
    `${step} of ${steps} steps`,
    state === "running" && tokens_per_second !== null ? `${formatNumber(tokens_per_second, 3)} tokens/s` : "",
    timeLeft(job),
  ];
  return parts.filter((part) => part !== "").join(" · ");
}
