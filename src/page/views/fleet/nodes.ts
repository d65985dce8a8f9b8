import { get } from "../../api/client.ts";
import type { FleetNode, Nodes } from "../../api/types.ts";
import { fill, h, write } from "../../base/dom.ts";
import { formatBytes, shortName } from "../../base/format.ts";
import type { Jobs } from "../../state/jobs.ts";
import { nodesTraffic } from "./traffic.ts";

/** Milliseconds between two looks at the machines of the fleet. */
const LOOK_MS = 3000;

/** The machines of a fleet, and what each does; nothing where the server trains by itself. */
export function nodesPanel(jobs: Jobs): { readonly element: HTMLElement; close(): void } {
  const controller = new AbortController();
  const count = h("span", { class: "count" });
  const rows = h("tbody");
  const table = h(
    "table",
    {},
    h(
      "thead",
      {},
      h("tr", {}, ...["Node", "Jobs", "Memory of a job", "Models"].map((title) => h("th", { scope: "col" }, title))),
    ),
    rows,
  );
  const linkOf = (job: string) => h("a", { href: `#/job/${job}` }, shortName(jobs.get(job)?.remat.name ?? job));
  const traffic = nodesTraffic(linkOf);
  const none = h("p", { class: "muted" }, "There is no node: jobs wait until one is started with remat node.");
  const element = h("section", { class: "nodes", hidden: true }, h("h2", {}, "Nodes ", count), none, table, traffic.element);
  let timer: ReturnType<typeof setTimeout> | null = null;
  const look = async (): Promise<void> => {
    let isFleet = true;
    try {
      if (!document.hidden) {
        const { fleet, data } = await get<Nodes>("v1/nodes", controller.signal);
        isFleet = fleet;
        element.hidden = !fleet;
        write(count, String(data.length));
        none.hidden = data.length > 0;
        table.hidden = data.length === 0;
        fill(rows, ...data.map((node) => rowOf(node, linkOf)));
        traffic.show(data);
      }
    } catch {
      // The connection's sign tells that the server is away.
    }
    if (isFleet && !controller.signal.aborted) timer = setTimeout(() => void look(), LOOK_MS);
  };
  void look();
  return {
    element,
    close() {
      controller.abort();
      if (timer !== null) clearTimeout(timer);
    },
  };
}

function rowOf(
  { id, slots, memory, models, jobs: own, running, leaving }: FleetNode,
  linkOf: (job: string) => HTMLElement,
): HTMLElement {
  const links = own.map(linkOf);
  const others = running - own.length;
  const texts = [
    ...links.flatMap((link, i) => (i === 0 ? [link] : [", ", link])),
    others > 0 ? `${links.length > 0 ? ", " : ""}${others} of another server` : "",
    running === 0 ? (leaving ? "is leaving" : `none of ${slots}`) : ` (of ${slots})`,
  ];
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, id),
    h("td", {}, ...texts),
    h("td", {}, formatBytes(memory)),
    h("td", {}, models.join(", ") || "none yet"),
  );
}
