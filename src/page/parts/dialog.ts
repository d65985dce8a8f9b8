import { h } from "../base/dom.ts";

let count = 0;

export interface DialogOptions {
  readonly title: string;
  readonly content: readonly (Node | string)[];
  /** The button that says yes. */
  readonly action: string;
  readonly isDangerous?: boolean;
  /** The dialog cannot be closed without it. */
  readonly isNeeded?: boolean;
}

/** Asks for something in a dialog; resolves with whether it was said. The last one that was shown gets its focus back. */
export function ask({ title, content, action, isDangerous = false, isNeeded = false }: DialogOptions): Promise<boolean> {
  const id = `dialog-${++count}`;
  return new Promise((done) => {
    const form = h(
      "form",
      { method: "dialog" },
      h("h2", { id }, title),
      ...content,
      h(
        "div",
        { class: "buttons" },
        isNeeded ? null : h("button", { type: "button", onclick: () => dialog.close("") }, "Cancel"),
        h("button", { class: isDangerous ? "danger" : "primary", value: "yes" }, action),
      ),
    );
    const dialog = h("dialog", { "aria-labelledby": id }, form);
    dialog.addEventListener("cancel", (event) => isNeeded && event.preventDefault());
    dialog.addEventListener("close", () => {
      done(dialog.returnValue === "yes");
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Asks for the key of a server that wants one. */
export async function askForKey(): Promise<string> {
  const input = h("input", { type: "password", required: true, autocomplete: "off", id: "key", spellcheck: "false" });
  await ask({
    title: "This server asks for a key",
    content: [h("p", {}, "It is kept in this tab alone, and forgotten with it."), h("label", { for: "key" }, "Key"), input],
    action: "Go on",
    isNeeded: true,
  });
  return input.value.trim();
}

let notes: HTMLElement | null = null;
const NOTE_MS = 8000;

/** Says something in a corner for some seconds; screen readers read it. */
export function note(text: string, kind: "info" | "error" = "info"): void {
  if (notes === null) document.body.append((notes = h("div", { class: "notes", role: "status", "aria-live": "polite" })));
  const line = h("p", { class: kind }, text);
  notes.append(line);
  setTimeout(() => line.remove(), NOTE_MS);
}
