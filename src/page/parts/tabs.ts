import { h } from "../base/dom.ts";

let count = 0;

/** Panels of which one is shown; arrow keys go from tab to tab. */
export function tabs(label: string, panels: readonly (readonly [name: string, content: HTMLElement])[]): HTMLElement {
  const id = `tabs-${++count}`;
  const buttons = panels.map(([name], i) =>
    h(
      "button",
      { type: "button", role: "tab", id: `${id}-${i}`, "aria-controls": `${id}-panel-${i}`, onclick: () => show(i) },
      name,
    ),
  );
  const shown = panels.map(([, content], i) =>
    h("div", { role: "tabpanel", id: `${id}-panel-${i}`, "aria-labelledby": `${id}-${i}` }, content),
  );
  const show = (wanted: number) => {
    buttons.forEach((button, i) => {
      button.setAttribute("aria-selected", String(i === wanted));
      button.tabIndex = i === wanted ? 0 : -1;
      shown[i]!.hidden = i !== wanted;
    });
  };
  const list = h("div", {
    role: "tablist",
    "aria-label": label,
    onkeydown: (event: KeyboardEvent) => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (move === undefined) return;
      const at = buttons.findIndex((button) => button === document.activeElement);
      const next = (at + move + buttons.length) % buttons.length;
      show(next);
      buttons[next]!.focus();
    },
  });
  list.append(...buttons);
  show(0);
  return h("section", { class: "panel tabs", "aria-label": label }, list, ...shown);
}
