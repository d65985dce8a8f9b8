import { get, messageOf, request } from "../api/client.ts";
import type { Checkpoint, Job, JobEvent, Page, RunReport } from "../api/types.ts";
import { fill, h, keyedList, write } from "../base/dom.ts";
import { formatNumber, formatTime } from "../base/format.ts";
import { note } from "../parts/dialog.ts";
import { hasReport } from "../parts/status.ts";
import { tabs } from "../parts/tabs.ts";
import type { Jobs } from "../state/jobs.ts";

/** Events that are listed, at most. */
const MOST_EVENTS = 500;

/** Shows what a job says in words: events, configuration, samples, checkpoints. */
export function jobTexts(jobs: Jobs, id: string, signal: AbortSignal) {
  const path = `v1/fine_tuning/jobs/${id}`;
  const failed = (error: unknown) => {
    if (!signal.aborted) note(messageOf(error), "error");
  };

  const list = h("ol", { class: "events", tabindex: 0, "aria-label": "Events, the newest first" });
  const showEvents = keyedList<JobEvent>(list, { key: (event) => event.id, make: eventRow });
  const isShown = ({ type }: JobEvent) => type === "message";
  let events: readonly JobEvent[] = [];
  const loadEvents = async () => {
    const page = await get<Page<JobEvent>>(`${path}/events?type=message&limit=${MOST_EVENTS}`, signal);
    const known = new Set(page.data.map((event) => event.id));
    events = [...events.filter((event) => !known.has(event.id)), ...page.data];
    showEvents(events);
  };
  const end = jobs.watchEvents(id, (event) => {
    if (!isShown(event)) return;
    events = [event, ...events.filter((known) => known.id !== event.id)].slice(0, MOST_EVENTS);
    showEvents(events);
    if (event.data?.["prompt"] !== undefined) showSample(event.data as unknown as Sample);
    if (event.message.startsWith("Checkpoint")) void loadCheckpoints().catch(failed);
  });

  const yaml = h("pre", { class: "code", tabindex: 0, "aria-label": "Configuration as YAML" });
  const copy = h("button", { type: "button", class: "quiet", onclick: () => void copyText(yaml.textContent ?? "") }, "Copy");
  const loadConfig = async () => write(yaml, await (await request(`${path}/config`, { signal })).text());

  const sample = h("div");
  const samples = h("section", { class: "panel", hidden: true, "aria-label": "Sample" }, h("h2", {}, "Held-out sample"), sample);
  const showSample = ({ prompt, before, after }: Sample) => {
    samples.hidden = false;
    const said = (who: string, text: string | null, kind: string) =>
      text === null ? null : h("div", { class: `said ${kind}` }, h("span", { class: "who" }, who), h("p", {}, text));
    fill(sample, said("Asked", prompt, "user"), said("Before training", before, "base"), said("After training", after, "tuned"));
  };
  const loadSample = async () => {
    const report = await get<RunReport>(`${path}/report`, signal);
    if (report.sample) showSample(report.sample);
  };

  const saved = h("ul", { class: "checkpoints" });
  const checkpoints = h(
    "section",
    { class: "panel", hidden: true, "aria-label": "Checkpoints" },
    h("h2", {}, "Checkpoints"),
    saved,
  );
  const loadCheckpoints = async () => {
    const { data } = await get<Page<Checkpoint>>(`${path}/checkpoints`, signal);
    checkpoints.hidden = data.length === 0;
    fill(saved, ...data.map(checkpointRow));
  };

  return {
    main: tabs("About the job", [
      ["Events", list],
      ["Configuration", h("div", {}, h("div", { class: "tools end" }, copy), yaml)],
    ]),
    aside: [samples, checkpoints],
    /** The job has begun, gone on, or ended. */
    refresh(job: Job) {
      for (const load of [loadEvents, loadConfig, loadCheckpoints, ...(hasReport(job) ? [loadSample] : [])])
        void load().catch(failed);
    },
    close: end,
  };
}

interface Sample {
  readonly prompt: string;
  readonly before: string | null;
  readonly after: string | null;
}

function eventRow(event: JobEvent) {
  const element = h(
    "li",
    { class: event.level },
    h("time", { class: "muted" }, formatTime(event.created_at)),
    event.level === "info" ? null : h("b", {}, event.level === "warn" ? "warning" : "error"),
    h("span", {}, event.message),
  );
  return { element, update: () => {} };
}

function checkpointRow({ step_number, created_at, metrics, fine_tuned_model_checkpoint: name }: Checkpoint): HTMLElement {
  const loss = metrics["valid_loss"] ?? metrics["train_loss"];
  return h(
    "li",
    {},
    h("b", {}, `Step ${step_number}`),
    h("span", { class: "muted" }, `${formatTime(created_at)}${typeof loss === "number" ? ` · loss ${formatNumber(loss)}` : ""}`),
    h("a", { href: `#/chat?right=${encodeURIComponent(name)}`, "aria-label": `Chat with step ${step_number}` }, "Chat"),
  );
}

async function copyText(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
    note("Copied");
  } catch {
    note("The browser does not let this page copy; select the text instead", "error");
  }
}
