import { messageOf, send } from "../api/client.ts";
import type { DataPreview, DataProblems, TextPart } from "../api/types.ts";
import { fill, h, write } from "../base/dom.ts";
import { formatCount } from "../base/format.ts";

/** Rows that are shown at a time. */
const ROWS = 5;
/** Milliseconds that a change waits for the next one. */
const GATHER_MS = 300;

/** A file as it is to be read: a job's request without what is not about its data. */
export interface PreviewRequest {
  readonly model: string;
  readonly training_file: string;
  readonly remat: Readonly<Record<string, unknown>>;
}

/** Shows examples of a file as the model sees them, what is not trained on dimmed, and what is wrong with the file, line by line. */
export function dataPreview(onColumns: (preview: DataPreview) => void) {
  let controller = new AbortController();
  let timer = 0;
  let request: PreviewRequest | null = null;
  let from = 1;
  const status = h("p", { class: "muted", role: "status" }, "Choose a file to see how the model sees it.");
  const rows = h("ol", { class: "rows" });
  const report = h("div", { class: "report" });
  const back = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => go(from - ROWS) }, "← Earlier");
  const on = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => go(from + ROWS) }, "Further →");
  const go = (wanted: number) => {
    from = Math.max(1, wanted);
    void load(false);
  };

  const load = async (withReport: boolean) => {
    if (request === null) return;
    controller.abort();
    controller = new AbortController();
    const { signal } = controller;
    const asked = { ...request, from, count: ROWS };
    write(status, "Reading…");
    try {
      const preview = await send<DataPreview>("v1/fine_tuning/preview", asked, { signal });
      showRows(preview);
      onColumns(preview);
      if (!withReport) return write(status, whole);
      write(status, "Checking the whole file…");
      const checked = await send<DataPreview>("v1/fine_tuning/preview", { ...asked, count: 1, whole: true }, { signal });
      showReport(checked.report!, checked.sequence_length);
    } catch (error) {
      if (signal.aborted) return;
      write(status, "");
      fill(rows);
      fill(report, h("p", { class: "problem" }, messageOf(error)));
    }
  };
  let whole = "";
  const showRows = ({ rows: found }: DataPreview) => {
    fill(rows, ...found.map(rowOf));
    back.hidden = from === 1;
    on.hidden = found.length < ROWS;
  };
  const showReport = (found: NonNullable<DataPreview["report"]>, sequenceLength: number) => {
    const { tokens, examples, errors, duplicates, over_long: overLong, unused, notices } = found;
    whole = tokens
      ? `${formatCount(examples)} examples, ${formatCount(tokens.total)} tokens, ${Math.round((100 * tokens.trained) / tokens.total)} % of them learned; the longest has ${formatCount(tokens.longest)}`
      : `${formatCount(examples)} examples`;
    write(status, whole);
    const columns = Object.keys(unused);
    fill(
      report,
      problemsOf("Errors", errors, "error"),
      problemsOf(`Longer than ${sequenceLength} tokens`, overLong, "warn"),
      problemsOf("Duplicates", duplicates, "warn"),
      columns.length === 0 ? null : h("p", { class: "muted" }, `Not used: ${columns.join(", ")}`),
      ...notices.map((text) => h("p", { class: "muted" }, text)),
    );
  };

  const element = h(
    "section",
    { class: "panel preview", "aria-label": "Preview" },
    h("h2", {}, "As the model sees it"),
    status,
    report,
    rows,
    h("div", { class: "tools" }, back, on),
    h("p", { class: "muted small" }, h("mark", {}, "marked"), " text is learned; the rest is read only."),
  );
  return {
    element,
    /** Shows another file, or the same one read otherwise. */
    show(wanted: PreviewRequest | null) {
      if (JSON.stringify(wanted) === JSON.stringify(request)) return;
      if (wanted?.training_file !== request?.training_file) from = 1;
      request = wanted;
      clearTimeout(timer);
      timer = window.setTimeout(() => void load(true), GATHER_MS);
    },
    close() {
      clearTimeout(timer);
      controller.abort();
    },
  };
}

function rowOf({ where, samples, error }: DataPreview["rows"][number]): HTMLElement {
  if (error !== null)
    return h("li", { class: "failed" }, h("span", { class: "muted" }, where), h("p", { class: "problem" }, error));
  return h(
    "li",
    {},
    ...samples.flatMap(({ tokens, trained, parts, cut }) => [
      h("span", { class: "muted" }, `${where} · ${formatCount(tokens)} tokens, ${formatCount(trained)} learned`),
      h("p", { class: "example" }, ...parts.map(partOf), cut ? " …" : null),
    ]),
  );
}

const partOf = ({ text, trained }: TextPart): HTMLElement =>
  trained ? h("mark", {}, text) : h("span", { class: "masked" }, text);

function problemsOf(name: string, { count, first }: DataProblems, kind: "error" | "warn"): HTMLElement | null {
  if (count === 0) return null;
  return h(
    "details",
    { class: `problems ${kind}`, open: kind === "error" },
    h("summary", {}, `${name}: ${formatCount(count)}`),
    h(
      "ul",
      { tabindex: 0, "aria-label": name },
      ...first.map(({ where, message }) => h("li", {}, h("b", {}, where), " ", message)),
      count > first.length ? h("li", { class: "muted" }, `and ${formatCount(count - first.length)} more`) : null,
    ),
  );
}
