import { get, messageOf } from "../api/client.ts";
import type { Model, Page } from "../api/types.ts";
import { fill, h } from "../base/dom.ts";
import type { View } from "../base/router.ts";
import { note } from "../parts/dialog.ts";
import { chatPane, type ChatSettings } from "./chat-pane.ts";

/** A talk with two models side by side: each hears the same, and answers for itself. */
export function chatView(left: string | null, right: string | null): View {
  const controller = new AbortController();
  const panes = [chatPane("left", "Base"), chatPane("right", "Tuned")] as const;
  const system = h("textarea", { id: "system", rows: 2, placeholder: "None" });
  const temperature = h("input", { id: "temperature", inputmode: "decimal", placeholder: "the model's", autocomplete: "off" });
  const tokens = h("input", { id: "tokens", inputmode: "numeric", placeholder: "the server's", autocomplete: "off" });
  const settings = (): ChatSettings => ({
    system: system.value.trim(),
    ...(temperature.value.trim() === "" ? {} : { temperature: Number(temperature.value) }),
    ...(tokens.value.trim() === "" ? {} : { max_tokens: Number(tokens.value) }),
  });
  const prompt = h("textarea", {
    id: "prompt",
    rows: 2,
    "aria-label": "Message to both models",
    placeholder: "Message to both models",
    onkeydown: (event: KeyboardEvent) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      void say();
    },
  });
  const sendButton = h("button", { type: "submit", class: "primary" }, "Send");
  const stop = h("button", { type: "button", hidden: true, onclick: () => panes.forEach((pane) => pane.stop()) }, "Stop");
  const clear = h("button", { type: "button", class: "quiet", onclick: () => panes.forEach((pane) => pane.clear()) }, "New talk");
  const say = async () => {
    const text = prompt.value.trim();
    if (text === "" || !stop.hidden) return;
    prompt.value = "";
    stop.hidden = false;
    sendButton.hidden = true;
    // What is sent before the models are known waits for them; without any it is given back.
    await loaded;
    if (panes.every(({ model }) => model.value === "")) prompt.value = text;
    await Promise.all(panes.map((pane) => pane.say(text, settings())));
    stop.hidden = true;
    sendButton.hidden = false;
  };
  const load = async () => {
    try {
      const { data } = await get<Page<Model>>("v1/models", controller.signal);
      const bases = data.filter(({ parent }) => parent === null);
      const tuned = data.filter(({ parent }) => parent !== null);
      const chosen = right ?? tuned.toSorted((a, b) => b.created - a.created)[0]?.id ?? "";
      const parent = data.find(({ id }) => id === chosen)?.parent;
      const options = () => [
        h("optgroup", { label: "Base models" }, ...bases.map(({ id }) => h("option", { value: id }, id))),
        ...(tuned.length === 0
          ? []
          : [h("optgroup", { label: "Tuned models" }, ...tuned.map(({ id }) => h("option", { value: id }, id)))]),
      ];
      fill(panes[0].model, ...options());
      fill(panes[1].model, h("option", { value: "" }, "None"), ...options());
      panes[0].choose(left ?? parent ?? bases[0]?.id ?? "");
      panes[1].choose(chosen);
    } catch (error) {
      if (!controller.signal.aborted) note(messageOf(error), "error");
    }
  };
  const loaded = load();
  return {
    title: "Chat",
    element: h(
      "div",
      { class: "view chat" },
      h("div", { class: "head" }, h("h1", {}, "Chat"), clear),
      h("div", { class: "panes" }, ...panes.map(({ element }) => element)),
      h(
        "form",
        { class: "panel composer", onsubmit: (event: Event) => (event.preventDefault(), void say()) },
        h("div", { class: "line" }, prompt, sendButton, stop),
        h(
          "details",
          {},
          h("summary", {}, "Settings"),
          h(
            "div",
            { class: "fields" },
            h("div", { class: "field" }, h("label", { for: "system" }, "System message"), system),
            h("div", { class: "field" }, h("label", { for: "temperature" }, "Temperature"), temperature),
            h("div", { class: "field" }, h("label", { for: "tokens" }, "Tokens of an answer"), tokens),
          ),
        ),
      ),
    ),
    close() {
      controller.abort();
      panes.forEach((pane) => pane.stop());
    },
  };
}
