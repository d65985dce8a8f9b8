import { TRAFFIC_KINDS, type Traffic, type TrafficKind } from "../page/api/types.ts";

/** How a file goes over the network. */
export interface Passage {
  readonly signal: AbortSignal;
  /** Told of bytes as they go. */
  counted?(bytes: number): void;
}

/** Counts what goes over the network, by what it is. */
export interface Meter {
  readonly traffic: Traffic;
  count(kind: TrafficKind, direction: "sent" | "received", bytes: number): void;
  /** Returns a way whose bytes are counted. */
  passage(kind: TrafficKind, direction: "sent" | "received", signal: AbortSignal): Passage;
}

/** @param whole counts the same besides */
export function createMeter(whole?: Meter): Meter {
  let traffic: Traffic = {};
  const count: Meter["count"] = (kind, direction, bytes) => {
    const { sent, received } = traffic[kind] ?? NONE;
    traffic = { ...traffic, [kind]: { sent, received, [direction]: (direction === "sent" ? sent : received) + bytes } };
    whole?.count(kind, direction, bytes);
  };
  return {
    get traffic() {
      return traffic;
    },
    count,
    passage: (kind, direction, signal) => ({ signal, counted: (bytes) => count(kind, direction, bytes) }),
  };
}

const NONE = { sent: 0, received: 0 } as const;

export function addTraffic(a: Traffic, b: Traffic): Traffic {
  const kinds = TRAFFIC_KINDS.filter((kind) => a[kind] ?? b[kind]);
  return Object.fromEntries(
    kinds.map((kind) => {
      const [one, two] = [a[kind] ?? NONE, b[kind] ?? NONE];
      return [kind, { sent: one.sent + two.sent, received: one.received + two.received }];
    }),
  );
}
