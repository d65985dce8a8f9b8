import { Problem } from "../api/client.ts";
import { h } from "../base/dom.ts";

interface Setting {
  /** The key of `train`. */
  readonly key: string;
  readonly label: string;
  readonly placeholder?: string;
  readonly choices?: readonly string[];
  readonly kind?: "number" | "boolean";
}

const SETTINGS: readonly Setting[] = [
  { key: "epochs", label: "Passes over the data", placeholder: "3", kind: "number" },
  { key: "learning_rate", label: "Learning rate", placeholder: "the optimizer's", kind: "number" },
  { key: "rank", label: "Rank", placeholder: "8", kind: "number" },
  { key: "gradient_accumulation", label: "Examples in a step", placeholder: "1", kind: "number" },
  { key: "sequence_length", label: "Tokens in a row", placeholder: "512", kind: "number" },
  { key: "quantize", label: "Frozen weights", choices: ["as stored", "q8", "nf4"] },
  { key: "patience", label: "Stop early after", placeholder: "never", kind: "number" },
  { key: "memory", label: "Memory limit", placeholder: "what is free" },
  { key: "truncate", label: "Cut longer examples", kind: "boolean" },
];

const EXAMPLE = '{ "schedule": "linear" }';

/** The settings of a job: those that most people change, and any other key of `train` as JSON. */
export function settingsFields(onChange: () => void) {
  const controls = new Map<string, HTMLInputElement | HTMLSelectElement>();
  const fields = SETTINGS.map(({ key, label, placeholder, choices, kind }) => {
    const id = `setting-${key}`;
    const common = { id, onchange: onChange };
    const control = choices
      ? h("select", common, ...choices.map((choice, i) => h("option", { value: i === 0 ? "" : choice }, choice)))
      : kind === "boolean"
        ? h("input", { ...common, type: "checkbox" })
        : h("input", { ...common, placeholder, inputmode: kind === "number" ? "decimal" : "text", autocomplete: "off" });
    controls.set(key, control);
    const text = h("label", { for: id }, label);
    return kind === "boolean" ? h("div", { class: "field check" }, control, text) : h("div", { class: "field" }, text, control);
  });
  const more = h("textarea", { id: "setting-more", rows: 3, placeholder: EXAMPLE, spellcheck: "false" });
  const element = h(
    "section",
    { class: "panel", "aria-label": "Settings" },
    h("h2", {}, "Settings"),
    h("p", { class: "muted small" }, "What is left empty is chosen for you."),
    h("div", { class: "fields" }, ...fields),
    h(
      "details",
      {},
      h("summary", {}, "More"),
      h("div", { class: "field" }, h("label", { for: "setting-more" }, "Other keys of train, as JSON"), more),
    ),
  );
  const ofFields = (): Record<string, unknown> => {
    const given: Record<string, unknown> = {};
    for (const { key, kind } of SETTINGS) {
      const control = controls.get(key)!;
      if (kind === "boolean") {
        if ((control as HTMLInputElement).checked) given[key] = true;
        continue;
      }
      const text = control.value.trim();
      // What is no number is told by the server, which names the field.
      if (text !== "") given[key] = kind === "number" && !Number.isNaN(Number(text)) ? Number(text) : text;
    }
    return given;
  };
  return {
    element,
    /** Reads what the fields say, by the keys of `train`. */
    ofFields,
    /** The same with the other keys. @throws {Problem} that are no JSON */
    value: (): Record<string, unknown> => ({ ...ofFields(), ...othersOf(more.value) }),
    /** Marks the field that a problem is about. */
    mark(param: string | null) {
      const key = param?.replace(/^remat\./, "");
      for (const [name, control] of controls) {
        const isMeant = name === key;
        if (isMeant) control.setAttribute("aria-invalid", "true");
        else control.removeAttribute("aria-invalid");
        if (isMeant) control.focus();
      }
    },
  };
}

function othersOf(text: string): Readonly<Record<string, unknown>> {
  if (text.trim() === "") return {};
  let value: unknown = null;
  try {
    value = JSON.parse(text);
  } catch {
    // Told below.
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new Problem(`other keys: expected a JSON object, such as ${EXAMPLE}`, null);
}
