import { get } from "../../api/client.ts";
import type { Federation, Page } from "../../api/types.ts";
import { fill, h, write } from "../../base/dom.ts";
import { formatNumber, formatTime } from "../../base/format.ts";
import { FEDERATION_STATES } from "./federation.ts";

/** Milliseconds between two looks at the federations. */
const LOOK_MS = 5000;

/** The federations of a fleet's NATS server; nothing where there are none. */
export function federationsPanel(): { readonly element: HTMLElement; close(): void } {
  const controller = new AbortController();
  const count = h("span", { class: "count" });
  const rows = h("tbody");
  const titles = ["Federation", "State", "Rounds", "Nodes", "Held-out loss", "Created"];
  const element = h(
    "section",
    { class: "nodes federations", hidden: true },
    h("h2", {}, "Federations ", count),
    h("table", {}, h("thead", {}, h("tr", {}, ...titles.map((title) => h("th", { scope: "col" }, title)))), rows),
  );
  const look = async (): Promise<void> => {
    if (document.hidden) return;
    try {
      const { data } = await get<Page<Federation>>("v1/federations", controller.signal);
      element.hidden = data.length === 0;
      write(count, String(data.length));
      fill(rows, ...data.map(rowOf));
    } catch {
      // The connection's sign tells that the server is away.
    }
  };
  const timer = setInterval(() => void look(), LOOK_MS);
  void look();
  return {
    element,
    close() {
      controller.abort();
      clearInterval(timer);
    },
  };
}

function rowOf({ id, name, status, closed, rounds, nodes, valid_loss, created_at }: Federation): HTMLElement {
  const texts = [
    FEDERATION_STATES[status],
    `${closed} of ${rounds}`,
    nodes.join(", ") || "none yet",
    formatNumber(valid_loss),
    formatTime(created_at),
  ];
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, h("a", { href: `#/federation/${id}` }, name)),
    ...texts.map((text) => h("td", {}, text)),
  );
}
