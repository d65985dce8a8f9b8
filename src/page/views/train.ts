import { messageOf, Problem, send } from "../api/client.ts";
import type { DryRun, Job } from "../api/types.ts";
import { fill, h, write } from "../base/dom.ts";
import { formatBytes, formatCount, formatDuration, formatNumber } from "../base/format.ts";
import type { View } from "../base/router.ts";
import { uploadField } from "../parts/upload.ts";
import type { Jobs } from "../state/jobs.ts";
import { choices, HELD_OUT } from "./choices.ts";
import { columnsField } from "./columns-field.ts";
import { dataPreview } from "./data-preview.ts";
import { settingsFields } from "./settings-fields.ts";

/** A job from its data to its start: upload, preview, settings, what it would take. */
export function trainView(jobs: Jobs, startModel: string | null): View {
  const controller = new AbortController();
  const { signal } = controller;
  const { file, heldOut, model, loadFiles, loadModels } = choices(signal, startModel, () => changed());
  const suffix = h("input", { id: "suffix", maxlength: 64, placeholder: "support-bot", autocomplete: "off" });
  const settings = settingsFields(() => changed());
  const columns = columnsField(() => changed());
  const preview = dataPreview((found) => columns.show(found));
  const error = h("p", { class: "problem", role: "alert", hidden: true });
  const estimate = h("div", { class: "estimate", hidden: true, role: "status" });
  const check = h("button", { type: "button", onclick: () => void tryOut() }, "Check");
  const start = h("button", { type: "submit", class: "primary" }, "Start training");
  let key = crypto.randomUUID();

  const request = () => {
    const mapped = columns.value;
    const isShare = (HELD_OUT as readonly string[]).includes(heldOut.value);
    return {
      model: model.value,
      training_file: file.value,
      ...(heldOut.value === "" || isShare ? {} : { validation_file: heldOut.value }),
      ...(suffix.value.trim() === "" ? {} : { suffix: suffix.value.trim() }),
      remat: {
        ...settings.value(),
        ...(isShare ? { valid: heldOut.value } : {}),
        ...(mapped.length === 0 ? {} : { columns: mapped }),
      },
    };
  };
  const changed = () => {
    estimate.hidden = true;
    key = crypto.randomUUID();
    if (file.value === "" || model.value === "") return preview.show(null);
    const { sequence_length } = settings.ofFields();
    const mapped = columns.value;
    const remat = {
      ...(typeof sequence_length === "number" ? { sequence_length } : {}),
      ...(mapped.length === 0 ? {} : { columns: mapped }),
    };
    preview.show({ model: model.value, training_file: file.value, remat });
  };
  /** Sends the job, and shows what is wrong with it where that is. */
  const ask = async <T>(more: object, button: HTMLButtonElement): Promise<T | null> => {
    error.hidden = true;
    settings.mark(null);
    button.disabled = true;
    try {
      return await send<T>(
        "v1/fine_tuning/jobs",
        { ...request(), ...more },
        { signal, headers: "dry_run" in more ? {} : { "idempotency-key": key } },
      );
    } catch (problem) {
      if (signal.aborted) return null;
      error.hidden = false;
      write(error, messageOf(problem));
      settings.mark(problem instanceof Problem ? problem.param : null);
      return null;
    } finally {
      button.disabled = false;
    }
  };
  const tryOut = async () => {
    write(check, "Checking…");
    const found = await ask<DryRun>({ dry_run: true }, check);
    write(check, "Check");
    estimate.hidden = found === null;
    if (found) showEstimate(estimate, found);
  };
  const begin = async () => {
    const job = await ask<Job>({}, start);
    if (job === null) return;
    jobs.put(job);
    location.hash = `#/job/${job.id}`;
  };

  const load = async () => {
    try {
      await Promise.all([loadFiles(), loadModels()]);
    } catch (problem) {
      if (signal.aborted) return;
      error.hidden = false;
      write(error, messageOf(problem));
    }
  };
  void load();

  const field = (label: string, control: HTMLElement) =>
    h("div", { class: "field" }, h("label", { for: control.id }, label), control);
  const form = h(
    "form",
    { class: "train", onsubmit: (event: Event) => (event.preventDefault(), void begin()) },
    h(
      "section",
      { class: "panel" },
      h("h2", {}, "Data"),
      uploadField((stored) => void loadFiles(stored.id)),
      field("Training file", file),
      columns.element,
      field("Held-out examples", heldOut),
    ),
    h("section", { class: "panel" }, h("h2", {}, "Model"), field("From", model), field("Name", suffix)),
    settings.element,
    error,
    estimate,
    h("div", { class: "buttons" }, check, start),
  );
  return {
    title: "Train",
    element: h(
      "div",
      { class: "view" },
      h("h1", {}, "Train a model"),
      h("div", { class: "columns halves" }, form, preview.element),
    ),
    close() {
      controller.abort();
      preview.close();
    },
  };
}

function showEstimate(element: HTMLElement, found: DryRun): void {
  const { steps, minutes, memory, examples, held_out, trained_tokens, timed, notes } = found;
  const tile = (name: string, text: string) => h("div", {}, h("dt", {}, name), h("dd", {}, text));
  const slowest = Math.max(0, ...memory.curve.map(({ overhead }) => overhead));
  fill(
    element,
    h(
      "dl",
      { class: "tiles" },
      tile("Steps", formatCount(steps)),
      tile(timed ? "Time" : "Time, roughly", formatDuration(minutes * 60)),
      tile("Memory", `${formatBytes(memory.least)} – ${formatBytes(memory.most)}`),
      tile("Examples", `${formatCount(examples)}${held_out > 0 ? ` + ${formatCount(held_out)}` : ""}`),
    ),
    h(
      "p",
      { class: "muted" },
      `${formatCount(trained_tokens)} tokens of each pass are learned. With the least memory a step takes ${formatNumber(100 * slowest, 2)} % more time; no number changes.`,
    ),
    ...notes.map((text) => h("p", { class: "muted" }, text)),
  );
}
