import { addressOf, get, messageOf, request, send } from "../api/client.ts";
import type { BoxMemory, Export, Model, Page } from "../api/types.ts";
import { fill, h, write } from "../base/dom.ts";
import { formatBytes, formatTime, shortName } from "../base/format.ts";
import type { View } from "../base/router.ts";
import { ask, note } from "../parts/dialog.ts";
import { partsBar } from "../parts/parts-bar.ts";
import type { Jobs } from "../state/jobs.ts";

/** Milliseconds between two looks at the memory of the box. */
const LOOK_MS = 3000;

/** The base models with what was trained of each: to talk to, to train further, to take away. Above them, who holds the box's memory. */
export function modelsView(jobs: Jobs): View {
  const controller = new AbortController();
  const { signal } = controller;
  const box = boxPanel(jobs, signal);
  const groups = h("div", { class: "view" });
  const load = async () => {
    try {
      const { data } = await get<Page<Model>>("v1/models", signal);
      const bases = data.filter(({ parent }) => parent === null);
      fill(
        groups,
        ...bases.map((base) =>
          groupOf(
            base,
            data.filter(({ parent }) => parent === base.id),
            load,
          ),
        ),
      );
    } catch (error) {
      if (!signal.aborted) fill(groups, h("p", { class: "problem" }, messageOf(error)));
    }
  };
  void load();
  // A model is there as soon as its job has ended.
  let ended = -1;
  const unwatch = jobs.watch(() => {
    const count = jobs.list().filter(({ fine_tuned_model }) => fine_tuned_model !== null).length;
    if (ended >= 0 && count !== ended) void load();
    ended = count;
  });
  return {
    title: "Models",
    element: h("div", { class: "view" }, h("h1", {}, "Models"), box.element, groups),
    close() {
      controller.abort();
      unwatch();
      box.close();
    },
  };
}

/** Shows who holds how much of the memory that answering and jobs may take together. */
function boxPanel(jobs: Jobs, signal: AbortSignal) {
  const bar = partsBar("Memory of the box");
  const text = h("p", { class: "muted" });
  const look = async () => {
    if (document.hidden || !jobs.isLoaded) return;
    try {
      const { limit, free, serving, jobs: holders } = await get<BoxMemory>("v1/memory", signal);
      const nameOf = (id: string) => {
        const job = jobs.get(id);
        return job ? shortName(job.remat.name) : id;
      };
      bar.show(
        [{ name: "answering", bytes: serving.held }, ...holders.map(({ id, held }) => ({ name: nameOf(id), bytes: held }))],
        [],
        limit,
      );
      write(text, `${formatBytes(free)} of ${formatBytes(limit)} are free`);
    } catch {
      // The connection's sign tells that the server is away.
    }
  };
  // Names of jobs are known when these are.
  const unwatch = jobs.watch(() => jobs.isLoaded && bar.isEmpty && void look());
  void look();
  const timer = setInterval(() => void look(), LOOK_MS);
  return {
    element: h(
      "section",
      { class: "panel", "aria-label": "Memory of the box" },
      h("h2", {}, "Memory of the box"),
      bar.element,
      text,
    ),
    close() {
      clearInterval(timer);
      unwatch();
    },
  };
}

function groupOf(base: Model, adapters: readonly Model[], reload: () => Promise<void>): HTMLElement {
  const checkpoints = adapters.filter(isCheckpoint);
  const models = adapters.filter((model) => !isCheckpoint(model));
  const list = (all: readonly Model[]) => h("ul", { class: "models" }, ...all.map((model) => modelRow(model, reload)));
  return h(
    "section",
    { class: "panel" },
    h("h2", {}, base.id),
    list([base, ...models]),
    checkpoints.length === 0 ? null : h("details", {}, h("summary", {}, `${checkpoints.length} checkpoints`), list(checkpoints)),
  );
}

const isCheckpoint = ({ id }: Model): boolean => /:ckpt-step-\d+$/.test(id);

function modelRow(model: Model, reload: () => Promise<void>): HTMLElement {
  const { id, parent, created, root } = model;
  const [, step] = /:ckpt-step-(\d+)$/.exec(id) ?? [];
  const isJob = id.startsWith("ft:");
  const title = parent === null ? "Base model" : isJob ? `${shortName(id)}${step === undefined ? "" : `, step ${step}`}` : id;
  const name = encodeURIComponent(id);
  return h(
    "li",
    {},
    h(
      "div",
      { class: "name" },
      isJob && root.startsWith("ftjob-") ? h("a", { href: `#/job/${root}` }, title) : h("b", {}, title),
      h("span", { class: "muted" }, parent === null ? "" : `${id} · ${formatTime(created)}`),
    ),
    h(
      "div",
      { class: "actions" },
      h(
        "a",
        { class: "button", href: `#/chat?${parent === null ? "left" : "right"}=${name}`, "aria-label": `Chat with ${title}` },
        "Chat",
      ),
      h("a", { class: "button", href: `#/train?model=${name}`, "aria-label": `Train ${title} further` }, "Train"),
      h("button", { type: "button", "aria-label": `Export ${title}`, onclick: () => void exportModel(model, title) }, "Export"),
      parent === null || step !== undefined
        ? null
        : h(
            "button",
            {
              type: "button",
              class: "danger",
              "aria-label": `Delete ${title}`,
              onclick: () => void remove(model, title, reload),
            },
            "Delete",
          ),
    ),
  );
}

/** Forms that a model can be taken away in, in words. */
const FORMATS = [
  ["peft", "Adapter", "for PEFT and vLLM: a few megabytes, without the base model"],
  ["merged", "Merged model", "a whole model folder, as Hugging Face has it"],
  ["gguf", "GGUF", "for llama.cpp and Ollama, the adapter merged in"],
] as const;

const TYPES = ["f16", "bf16", "q8_0", "q4_0", "f32"] as const;

async function exportModel({ id, parent }: Model, title: string): Promise<void> {
  const formats = FORMATS.filter(([format]) => parent !== null || format === "gguf");
  const inputs = formats.map(([format], i) =>
    h("input", { type: "radio", name: "format", value: format, id: `format-${format}`, checked: i === 0 }),
  );
  const type = h("select", { id: "gguf-type" }, ...TYPES.map((each) => h("option", {}, each)));
  const isMeant = await ask({
    title: `Export ${title}`,
    content: [
      h(
        "fieldset",
        {},
        h("legend", { class: "muted" }, "Form"),
        ...formats.map(([format, name, words], i) =>
          h(
            "label",
            { class: "choice", for: `format-${format}` },
            inputs[i]!,
            h("span", {}, h("b", {}, name), h("span", { class: "muted" }, words)),
          ),
        ),
      ),
      h("div", { class: "field" }, h("label", { for: "gguf-type" }, "Type of the weights in GGUF"), type),
    ],
    action: "Export",
  });
  if (!isMeant) return;
  const format = inputs.find(({ checked }) => checked)!.value;
  note(`${title} is being written…`);
  try {
    const made = await send<Export>("v1/exports", { model: id, format, ...(format === "gguf" ? { type: type.value } : {}) });
    note(`${made.filename}, ${formatBytes(made.bytes)}`);
    const link = h("a", { href: addressOf(made.url).href, download: made.filename });
    document.body.append(link);
    link.click();
    link.remove();
  } catch (error) {
    note(messageOf(error), "error");
  }
}

async function remove({ id }: Model, title: string, reload: () => Promise<void>): Promise<void> {
  const isMeant = await ask({
    title: `Delete ${title}?`,
    content: [h("p", {}, `${id} and its run folder are removed from the server's disk for good.`)],
    action: "Delete",
    isDangerous: true,
  });
  if (!isMeant) return;
  try {
    await request(`v1/models/${encodeURIComponent(id)}`, { method: "DELETE" });
    await reload();
  } catch (error) {
    note(messageOf(error), "error");
  }
}
