import { version } from "../../../package.json" with { type: "json" };
import { messageOf, UserError } from "../../base/errors.ts";
import {
  PART_BYTES,
  type NodeNumbers,
  type NodeReport,
  partAt,
  partsOf,
  PROTOCOL,
  type Reply,
  readRequest,
  type Request,
  writeReply,
} from "./messages.ts";
import { type ClosedRound, openRoundFiles, type StoredUpdate } from "./round-files.ts";
import type { Federation } from "./settings.ts";
import { average, averageProducts, type Common } from "./updates/aggregate.ts";
import { decode, encodedBytes, encodeWithRest } from "../../base/codes.ts";
import { type Layout, sha256 } from "./updates/layout.ts";
import type { OuterSettings } from "./updates/mean.ts";

/** How a coordinator closes rounds. */
export interface RoundRules {
  /** Updates that close a round. */
  readonly nodes: number;
  /** Updates that are enough when the round's time is over. */
  readonly least: number;
  readonly roundMs: number;
  readonly weighting: "examples" | "equal";
  readonly aggregate: "average" | "products";
  readonly outer: OuterSettings;
}

/** A node in a round that is over. */
export interface RoundNode extends NodeReport {
  readonly node: string;
  /** How much its update counted, of 1. */
  readonly share: number;
  readonly bytes: number;
}

/** Numbers of a round that is over. */
export interface RoundNumbers {
  readonly round: number;
  readonly nodes: readonly RoundNode[];
  /** The model that the round began with, over the labelled tokens of all nodes; null: no node has held-out examples. */
  readonly heldOut: number | null;
  readonly lost: number | null;
  /** Bytes of the change that each node is sent. */
  readonly change: number;
  readonly seconds: number;
}

/** Describes what a coordinator tells. */
export type CoordinatorEvent =
  | { readonly type: "joined"; readonly node: string }
  | { readonly type: "update"; readonly node: string; readonly round: number; readonly bytes: number }
  | ({ readonly type: "round"; readonly rounds: number } & RoundNumbers)
  | {
      readonly type: "federated";
      readonly rounds: number;
      readonly heldOut: number | null;
      readonly nodes: Readonly<Record<string, NodeNumbers | null>>;
    };

export interface CoordinatorOptions {
  readonly folder: string;
  readonly federation: Federation;
  readonly layout: Layout;
  readonly rules: RoundRules;
  /** First values of what is learned. */
  begin(): Float32Array<ArrayBuffer>;
  readonly sink: (event: CoordinatorEvent) => void;
  /** Called with the common model when a round is closed, and at the start where some are: before nodes are told. */
  onModel(model: Float32Array<ArrayBuffer>): void;
  /** Milliseconds that the last round's nodes have to measure the last model. */
  readonly lingerMs?: number;
}

export interface Coordinator {
  /** Answers a message; whatever is wrong with it is said in the answer. */
  handle(message: Uint8Array): Uint8Array;
  /** Resolves when the last round is over and its nodes have measured the model. Rejects with what prevents going on. */
  readonly done: Promise<void>;
  /** The round that is open; behind the last one, all are over. */
  readonly round: number;
  /** Returns where the rounds are now. @param told closed rounds that the caller knows */
  progress(told: number): Progress;
  close(): void;
}

/** Where the rounds of a federation are. */
export interface Progress {
  /** Rounds that are over, behind those that the caller knows. */
  readonly closed: readonly RoundNumbers[];
  /** The round that is open; behind the last one, all are over. */
  readonly round: number;
  /** Nodes that have joined, and of these the ones whose update of the open round is in. */
  readonly joined: readonly string[];
  readonly updates: readonly string[];
  /** The last model at the nodes, once all rounds are over. */
  readonly evaluations: Readonly<Record<string, NodeNumbers | null>>;
}

/** Milliseconds between two looks whether a round is to be closed. */
const TICK_MS = 50;

/** Parts of an update that have arrived; lost when the coordinator ends, and sent again then. */
interface Arriving {
  readonly round: number;
  readonly parts: (Uint8Array | undefined)[];
}

/**
 * Leads the rounds. In one piece: the functions share the state of the open round.
 * @throws {UserError} files of another federation, or damaged ones
 */
export function createCoordinator(options: CoordinatorOptions): Coordinator {
  const { folder, federation, layout, rules, sink, lingerMs = 60_000 } = options;
  const files = openRoundFiles(folder, federation, (): Common => {
    const parameters = options.begin();
    return { parameters, model: parameters.slice(), velocity: rules.outer.momentum > 0 ? new Float32Array(layout.size) : null };
  });
  const size = encodedBytes(layout.size, federation.encoding);
  const arriving = new Map<string, Arriving>();
  const joined = new Set<string>();
  let opened = performance.now();
  let ended: number | null = null;
  let isClosing = false;
  const isDone = () => files.state.round > federation.rounds;
  let end!: { resolve(): void; reject(error: unknown): void };
  const done = new Promise<void>((resolve, reject) => (end = { resolve, reject }));
  // Whoever awaits it hears of it.
  done.catch(() => {});

  const refused = (message: string, again = false): Reply => ({ type: "refused", message, again });

  function answer(request: Request, body: Uint8Array): [reply: Reply, body?: Uint8Array] {
    if (request.type === "join") return [join(request)];
    if (request.run !== federation.run) return [refused(`this is the run ${federation.run}, not ${request.run}; join it anew`)];
    const { state } = files;
    switch (request.type) {
      case "status":
        return [
          {
            type: "round",
            round: state.round,
            isDone: isDone(),
            model: state.model,
            isIn: isClosing || files.updates.has(request.node),
          },
        ];
      case "change": {
        const change = files.change(request.round);
        return change === null ? [{ type: "gone" }] : partOf(change, request.part);
      }
      case "model": {
        if (request.round !== state.round) return [{ type: "gone" }];
        const { buffer, byteOffset, byteLength } = files.common.model;
        return partOf(new Uint8Array(buffer, byteOffset, byteLength), request.part);
      }
      case "upload":
        return [upload(request, body)];
      case "commit":
        return [commit(request)];
      case "evaluation":
        if (!isDone()) return [refused("the rounds are not over")];
        files.addEvaluation(request.node, request.heldOut);
        return [{ type: "received" }];
    }
  }

  function join({ protocol, version: theirs, node }: Extract<Request, { type: "join" }>): Reply {
    if (protocol !== PROTOCOL || theirs !== version) {
      return refused(
        `the node ${node} has version ${theirs} (protocol ${protocol}), the coordinator ${version} (protocol ${PROTOCOL}); give both the same version`,
      );
    }
    if (!joined.has(node)) sink({ type: "joined", node });
    joined.add(node);
    return { type: "welcome", federation };
  }

  function partOf(bytes: Uint8Array, part: number): [Reply, Uint8Array?] {
    const parts = partsOf(bytes.length);
    return part < parts
      ? [{ type: "part", parts }, partAt(bytes, part)]
      : [refused(`there are ${parts} parts, and none ${part}`)];
  }

  function upload({ node, round, part, parts }: Extract<Request, { type: "upload" }>, body: Uint8Array): Reply {
    if (round !== files.state.round || isClosing) return { type: "received" };
    if (parts !== partsOf(size) || part >= parts || body.length !== Math.min(PART_BYTES, size - part * PART_BYTES))
      return refused(
        `an update here has ${size} bytes in ${partsOf(size)} parts; got part ${part} of ${parts} with ${body.length} bytes`,
      );
    let entry = arriving.get(node);
    if (entry?.round !== round) arriving.set(node, (entry = { round, parts: Array.from({ length: parts }) }));
    entry.parts[part] = body.slice();
    return { type: "received" };
  }

  function commit({ node, round, digest, report }: Extract<Request, { type: "commit" }>): Reply {
    const known =
      round === files.state.round
        ? files.updates.get(node)
        : files.state.closed.find((closed) => closed.round === round)?.nodes.find((update) => update.node === node);
    if (known && known.digest !== digest)
      return refused(
        `another node is called ${node} too, and has sent its update of round ${round}; give each a name of its own`,
      );
    if (known) return { type: "committed", counts: true };
    if (round !== files.state.round || isClosing || isDone()) return { type: "committed", counts: false };
    const parts = arriving.get(node);
    if (!parts || parts.round !== round || parts.parts.some((part) => part === undefined))
      return refused("parts of the update are missing", true);
    const bytes = new Uint8Array(Buffer.concat(parts.parts as Uint8Array[]));
    arriving.delete(node);
    if (sha256(bytes) !== digest) return refused("the update has not the checksum that was said", true);
    decode(bytes, layout.size, federation.encoding);
    files.addUpdate({ node, digest, bytes: bytes.length, report }, bytes);
    sink({ type: "update", node, round, bytes: bytes.length });
    return { type: "committed", counts: true };
  }

  function weightOf({ report }: StoredUpdate): number {
    return rules.weighting === "equal" ? 1 : report.examples;
  }

  function numbersOf({ round, nodes, lost, change, seconds }: ClosedRound): RoundNumbers {
    const total = nodes.reduce((sum, update) => sum + weightOf(update), 0);
    return {
      round,
      nodes: nodes.map((update) => ({
        node: update.node,
        ...update.report,
        share: weightOf(update) / total,
        bytes: update.bytes,
      })),
      heldOut: meanLoss(nodes.map(({ report }) => report.heldOut)),
      lost,
      change,
      seconds,
    };
  }

  async function closeRound(): Promise<void> {
    const { state, common } = files;
    const updates = [...files.updates.values()].sort((a, b) => (a.node < b.node ? -1 : 1));
    const contributions = updates.map((update) => ({
      weight: weightOf(update),
      update: decode(files.readUpdate(update), layout.size, federation.encoding),
    }));
    const { lost, ...next } =
      rules.aggregate === "products"
        ? await averageProducts(layout, common, contributions)
        : average(common, contributions, rules.outer);
    if (!next.parameters.every(Number.isFinite))
      throw new UserError(`round ${state.round}: the mean of the updates is not finite; lower the learning rates`);
    const { bytes, sent } = encodeWithRest(
      next.parameters.map((value, i) => value - common.model[i]!),
      null,
      federation.encoding,
    );
    const model = common.model.map((value, i) => value + sent[i]!);
    options.onModel(model);
    const closed: ClosedRound = {
      round: state.round,
      nodes: updates,
      lost,
      change: bytes.length,
      seconds: (performance.now() - opened) / 1000,
    };
    files.close(closed, { ...next, model }, bytes);
    arriving.clear();
    opened = performance.now();
    sink({ type: "round", rounds: federation.rounds, ...numbersOf(closed) });
  }

  const tick = async () => {
    if (isClosing) return;
    if (isDone()) {
      ended ??= performance.now();
      const { evaluations, closed } = files.state;
      const isComplete = closed.at(-1)!.nodes.every(({ node }) => Object.hasOwn(evaluations, node));
      if (!isComplete && performance.now() - ended < lingerMs) return;
      clearInterval(timer);
      sink({ type: "federated", rounds: federation.rounds, heldOut: meanLoss(Object.values(evaluations)), nodes: evaluations });
      end.resolve();
      return;
    }
    const isLate = performance.now() - opened >= rules.roundMs;
    if (files.updates.size < (isLate ? rules.least : rules.nodes)) return;
    isClosing = true;
    try {
      await closeRound();
    } catch (error) {
      clearInterval(timer);
      end.reject(error);
    } finally {
      isClosing = false;
    }
  };
  if (files.state.closed.length > 0) options.onModel(files.common.model);
  const timer = setInterval(() => void tick(), TICK_MS);

  return {
    handle(message) {
      try {
        const { head, body } = readRequest(message);
        const [reply, bytes] = answer(head, body);
        return writeReply(reply, bytes);
      } catch (error) {
        if (!(error instanceof UserError)) throw error;
        return writeReply(refused(messageOf(error)));
      }
    },
    done,
    get round() {
      return files.state.round;
    },
    progress(told) {
      const { closed, round, evaluations } = files.state;
      const names = new Set([...closed.flatMap(({ nodes }) => nodes.map(({ node }) => node)), ...joined]);
      return {
        closed: closed.slice(told).map(numbersOf),
        round,
        joined: [...names].sort(),
        updates: [...files.updates.keys()],
        evaluations,
      };
    },
    close: () => clearInterval(timer),
  };
}

/** The mean of the nodes' held-out losses by their labelled tokens; null: none has any. */
export function meanLoss(numbers: readonly (NodeNumbers | null)[]): number | null {
  const known = numbers.filter((one) => one !== null);
  const labelled = known.reduce((sum, one) => sum + one.labelled, 0);
  return labelled === 0 ? null : known.reduce((sum, one) => sum + one.loss * one.labelled, 0) / labelled;
}
