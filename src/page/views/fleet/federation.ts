import { get, messageOf, Problem } from "../../api/client.ts";
import type { Federation, FederationDetail, FederationRound, FederationRoundNode } from "../../api/types.ts";
import { fill, h, write } from "../../base/dom.ts";
import { formatBytes, formatCount, formatNumber, formatTime } from "../../base/format.ts";
import type { View } from "../../base/router.ts";
import { type Chart, createChart, type Curve } from "../../charts/chart.ts";
import { SERIES_COLOURS } from "../../charts/colours.ts";
import { GrowingSeries } from "../../charts/series.ts";
import { createZoom } from "../../charts/zoom.ts";
import { note } from "../../parts/dialog.ts";

/** Milliseconds between two looks at the rounds. */
const LOOK_MS = 2000;

/** A federation: the curves of its rounds, all nodes together and each by itself, and what each node has given. */
export function federationView(id: string): View {
  const controller = new AbortController();
  const rounds = createRounds();
  const charts = roundCharts(rounds);
  const head = federationHead();
  const table = nodeTable();
  const missing = h("p", { class: "empty", hidden: true }, `There is no federation ${id} here.`);
  const none = h("p", { class: "muted" }, "No round is over yet.");
  const body = h("div", { hidden: true }, none, charts.element, table.element);
  let timer: ReturnType<typeof setTimeout> | null = null;
  const look = async (): Promise<void> => {
    let isLive = true;
    try {
      if (!document.hidden || rounds.count === 0) {
        const found = await get<FederationDetail>(`v1/federations/${id}?after=${rounds.count}`, controller.signal);
        body.hidden = false;
        head.show(found);
        isLive = found.status !== "succeeded";
        if (rounds.take(found.data)) charts.update();
        none.hidden = rounds.count > 0;
        charts.element.hidden = rounds.count === 0;
        table.show(found, rounds);
      }
    } catch (error) {
      if (controller.signal.aborted) return;
      if (error instanceof Problem && error.status === 404) {
        missing.hidden = false;
        return;
      }
      // The connection's sign tells that the server is away.
      if (error instanceof Problem && error.status !== null) note(messageOf(error), "error");
    }
    if (isLive && !controller.signal.aborted) timer = setTimeout(() => void look(), LOOK_MS);
  };
  void look();
  return {
    title: "Federation",
    element: h("div", { class: "view" }, head.element, missing, body),
    close() {
      controller.abort();
      if (timer !== null) clearTimeout(timer);
      charts.close();
    },
  };
}

/** The numbers of rounds as they are drawn and listed. */
interface Rounds {
  readonly count: number;
  readonly heldOut: GrowingSeries;
  readonly present: GrowingSeries;
  readonly received: GrowingSeries;
  readonly sent: GrowingSeries;
  readonly nodes: ReadonlyMap<string, NodeRounds>;
  /** Takes rounds behind those that are known. @returns whether there were any */
  take(data: readonly FederationRound[]): boolean;
}

/** A node's own numbers. */
interface NodeRounds {
  readonly heldOut: GrowingSeries;
  readonly trained: GrowingSeries;
  rounds: number;
  bytes: number;
  last: FederationRoundNode;
}

function createRounds(): Rounds {
  const [heldOut, present, received, sent] = [new GrowingSeries(), new GrowingSeries(), new GrowingSeries(), new GrowingSeries()];
  const nodes = new Map<string, NodeRounds>();
  let count = 0;
  const addNode = (round: number, node: FederationRoundNode) => {
    let known = nodes.get(node.id);
    if (!known) {
      known = { heldOut: new GrowingSeries(), trained: new GrowingSeries(), rounds: 0, bytes: 0, last: node };
      nodes.set(node.id, known);
    }
    if (node.valid_loss !== null) known.heldOut.add(round, node.valid_loss);
    if (node.train_loss !== null) known.trained.add(round, node.train_loss);
    known.rounds++;
    known.bytes += node.bytes;
    known.last = node;
  };
  return {
    heldOut,
    present,
    received,
    sent,
    nodes,
    get count() {
      return count;
    },
    take(data) {
      const before = count;
      for (const { round, valid_loss, bytes_received, bytes_sent, nodes: taking } of data) {
        if (round <= count) continue;
        count = round;
        if (valid_loss !== null) heldOut.add(round, valid_loss);
        present.add(round, taking.length);
        received.add(round, bytes_received);
        sent.add(round, bytes_sent);
        for (const node of taking) addNode(round, node);
      }
      return count > before;
    },
  };
}

/** The variable of a node's colour: the first one is that of all nodes together. */
const colourOf = (index: number): string => SERIES_COLOURS[1 + (index % (SERIES_COLOURS.length - 1))]!;

/** The curves of the rounds. */
function roundCharts(rounds: Rounds) {
  const zoom = createZoom(() => [1, Math.max(2, rounds.count)]);
  const held = h("div");
  const others = h("div", { class: "small-charts" });
  const element = h(
    "section",
    { class: "panel charts", "aria-label": "Curves", hidden: true },
    h("h2", { class: "unseen" }, "Curves"),
    held,
    others,
  );
  let charts: readonly Chart[] = [];
  let drawn = -1;
  const curve = (name: string, colour: string, series: GrowingSeries): Curve => ({
    name,
    colour,
    look: "points",
    series: () => series,
  });
  const remake = () => {
    charts.forEach((chart) => chart.close());
    const shared = { zoom, group: "federation", over: "rounds", log: false } as const;
    const [first, second] = SERIES_COLOURS;
    const ofNodes = (seriesOf: (node: NodeRounds) => GrowingSeries) =>
      [...rounds.nodes].map(([name, node], i) => curve(name, colourOf(i), seriesOf(node)));
    const loss = createChart({
      ...shared,
      title: "Held-out loss",
      height: 280,
      curves: [curve("all nodes", first, rounds.heldOut), ...ofNodes((node) => node.heldOut)],
    });
    const small = [
      createChart({ ...shared, title: "Training loss", height: 150, curves: ofNodes((node) => node.trained) }),
      createChart({
        ...shared,
        title: "Nodes in the round",
        height: 150,
        format: (value) => formatNumber(value, 3),
        curves: [curve("", first, rounds.present)],
      }),
      createChart({
        ...shared,
        title: "Bytes of a round",
        height: 150,
        format: formatBytes,
        curves: [curve("from nodes", first, rounds.received), curve("to nodes", second, rounds.sent)],
      }),
    ];
    charts = [loss, ...small];
    fill(held, loss.element);
    fill(others, ...small.map((chart) => chart.element));
  };
  return {
    element,
    /** Draws what is new; a node that has come has curves of its own. */
    update() {
      if (drawn !== rounds.nodes.size) remake();
      drawn = rounds.nodes.size;
      charts.forEach((chart) => chart.update());
    },
    close: () => charts.forEach((chart) => chart.close()),
  };
}

/** Words for where a federation is. */
export const FEDERATION_STATES: Readonly<Record<Federation["status"], string>> = {
  running: "Running",
  away: "No coordinator",
  succeeded: "Done",
};

function federationHead() {
  const title = h("h1");
  const pill = h("span", { class: "pill" });
  const facts = h("p", { class: "muted" });
  const tiles = ["Round", "Held-out loss", "Updates of this round", "Values learned"].map((name) => {
    const value = h("dd");
    return { value, element: h("div", {}, h("dt", {}, name), value) };
  });
  const element = h(
    "header",
    { class: "job-head" },
    h("div", { class: "head" }, h("div", { class: "name" }, title, pill)),
    facts,
    h("dl", { class: "tiles" }, ...tiles.map((tile) => tile.element)),
  );
  return {
    element,
    show(found: Federation) {
      const { name, status, model, created_at, closed, rounds, local_steps, updates, wanted, valid_loss, parameters } = found;
      write(title, name);
      write(pill, FEDERATION_STATES[status]);
      pill.dataset["state"] = status;
      write(facts, `from ${model} · created ${formatTime(created_at)} · ${formatCount(local_steps)} steps a round`);
      const texts = [
        `${formatCount(closed)} / ${formatCount(rounds)}`,
        formatNumber(valid_loss),
        closed < rounds ? `${updates.length} of ${wanted}` : "–",
        formatCount(parameters),
      ];
      tiles.forEach(({ value }, i) => write(value, texts[i]!));
    },
  };
}

/** Lists what each node has given. */
function nodeTable() {
  const rows = h("tbody");
  const titles = ["Node", "Rounds", "Examples", "Share", "Held-out loss", "Sent", "Epsilon"];
  const element = h(
    "section",
    { class: "nodes" },
    h("h2", {}, "Nodes"),
    h("table", {}, h("thead", {}, h("tr", {}, ...titles.map((title) => h("th", { scope: "col" }, title)))), rows),
  );
  return {
    element,
    show({ nodes }: Federation, rounds: Rounds) {
      fill(
        rows,
        ...nodes.map((name) => {
          const known = rounds.nodes.get(name);
          const last = known?.last;
          const texts = [
            known ? `${known.rounds} of ${rounds.count}` : "none yet",
            last ? formatCount(last.examples) : "–",
            last ? `${Math.round(100 * last.share)} %` : "–",
            formatNumber(last?.valid_loss),
            formatBytes(known?.bytes ?? 0),
            formatNumber(last?.epsilon, 3),
          ];
          return h("tr", {}, h("th", { scope: "row" }, name), ...texts.map((text) => h("td", {}, text)));
        }),
      );
    },
  };
}
