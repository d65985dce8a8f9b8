import { get } from "../../api/client.ts";
import { type FleetNode, type JobTraffic, type Traffic, TRAFFIC_KINDS, type TrafficKind } from "../../api/types.ts";
import { type Child, fill, h } from "../../base/dom.ts";
import { formatBytes } from "../../base/format.ts";

/** Names of what goes over the network. */
const KINDS: Readonly<Record<TrafficKind, string>> = {
  bases: "Base models",
  data: "Data",
  checkpoints: "Checkpoints",
  results: "Results",
  gradients: "Gradients",
};

const NONE = { sent: 0, received: 0 } as const;

const heading = (...titles: readonly string[]): HTMLElement =>
  h("thead", {}, h("tr", {}, ...titles.map((title) => h("th", { scope: "col" }, title))));

/** Bytes that came and went, or a dash where there were none. */
function cellOf({ sent, received }: { readonly sent: number; readonly received: number } = NONE): HTMLElement {
  if (sent + received === 0) return h("td", {}, "–");
  const parts = [received > 0 ? `${formatBytes(received)} in` : "", sent > 0 ? `${formatBytes(sent)} out` : ""];
  return h("td", {}, parts.filter((part) => part !== "").join(", "));
}

/** Lists what each node has sent and received since its start, and for each job that it works on. @param linkOf names a job of this server */
export function nodesTraffic(linkOf: (job: string) => Child) {
  const rows = h("tbody");
  const element = h(
    "div",
    { class: "traffic", hidden: true },
    h("h3", {}, "Traffic since each node's start"),
    h("table", {}, heading("Node", ...TRAFFIC_KINDS.map((kind) => KINDS[kind])), rows),
  );
  const rowOf = (name: Child, traffic: Traffic, kind: "node" | "work") =>
    h("tr", { class: kind }, h("th", { scope: "row" }, name), ...TRAFFIC_KINDS.map((each) => cellOf(traffic[each])));
  return {
    element,
    show(nodes: readonly FleetNode[]) {
      element.hidden = nodes.length === 0;
      fill(
        rows,
        ...nodes.flatMap(({ id, traffic, work }) => [
          rowOf(id, traffic, "node"),
          ...work.map((each) => rowOf(each.job === null ? each.name : linkOf(each.job), each.traffic, "work")),
        ]),
      );
    },
  };
}

/** Milliseconds between two looks at a job's traffic. */
const LOOK_MS = 5000;

/** Lists what nodes have sent and received for a job; nothing where the server trains by itself. @param isLive tells whether it may still grow */
export function jobTraffic(id: string, isLive: () => boolean, signal: AbortSignal): HTMLElement {
  const rows = h("tbody");
  const element = h(
    "section",
    { class: "panel nodes", hidden: true, "aria-label": "Traffic" },
    h("h2", {}, "Traffic of its nodes"),
    h("table", {}, heading("", "To nodes", "From nodes"), rows),
  );
  const look = async (): Promise<void> => {
    const wasLive = isLive();
    try {
      const { fleet, traffic } = await get<JobTraffic>(`v1/fine_tuning/jobs/${id}/traffic`, signal);
      if (!fleet) return;
      const kinds = TRAFFIC_KINDS.filter((kind) => traffic[kind]);
      element.hidden = kinds.length === 0;
      const numbers = (kind: TrafficKind) => traffic[kind] ?? NONE;
      fill(
        rows,
        ...kinds.map((kind) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, KINDS[kind]),
            h("td", {}, formatBytes(numbers(kind).received)),
            h("td", {}, formatBytes(numbers(kind).sent)),
          ),
        ),
      );
    } catch {
      // The connection's sign tells that the server is away.
    }
    if (wasLive && !signal.aborted) setTimeout(() => void look(), LOOK_MS);
  };
  void look();
  return element;
}
