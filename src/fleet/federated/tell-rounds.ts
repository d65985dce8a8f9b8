import type { KV } from "@nats-io/kv";
import { messageOf } from "../../base/errors.ts";
import { persistently } from "../records.ts";
import { meanLoss, type Progress, type RoundNumbers } from "./coordinator.ts";
import type { Lead } from "./lead.ts";

/** A federation as it is written down for those who watch it: numbers and names alone. */
export interface FederationRecord {
  readonly name: string;
  readonly run: string;
  /** The base model's name. */
  readonly model: string;
  /** The milliseconds of Unix time at which its rounds were first told. */
  readonly created: number;
  readonly rounds: number;
  readonly localSteps: number;
  /** Values that are learned. */
  readonly parameters: number;
  /** Updates that close a round. */
  readonly wanted: number;
  /** Rounds that are over. */
  readonly closed: number;
  /** Nodes that have ever joined, and those whose update of the open round is in. */
  readonly joined: readonly string[];
  readonly updates: readonly string[];
  /** The last model at the nodes, once it has been measured there or waited for in vain. */
  readonly end: { readonly heldOut: number | null } | null;
}

/** Keys of the bucket: a federation, and each of its rounds. */
export const federationKey = (run: string): string => run;
export const roundKey = (run: string, round: number): string => `${run}.${round}`;

/** Writes down where a federation's rounds are. */
export interface RoundsTeller {
  /** Something has changed. */
  changed(): void;
  /** Resolves when everything is written, or NATS has not answered in time. */
  flush(): Promise<void>;
}

/** Milliseconds for which the end of a federation waits for NATS. */
const FLUSH_MS = 5000;

/**
 * Writes each round as it is closed, all of them anew whenever the coordinator has started, and then the federation: whoever reads that so many rounds are over
 * finds them.
 * @param isOver tells whether the last model has been measured
 */
export function tellRounds(
  bucket: KV,
  name: string,
  { federation, parameters, rules, progress }: Pick<Lead, "federation" | "parameters" | "rules" | "progress">,
  { isOver, onNote }: { isOver(): boolean; onNote(text: string): void },
): RoundsTeller {
  const { run, rounds, localSteps, model } = federation;
  const ending = new AbortController();
  let told = 0;
  let created: number | null = null;
  let written = "";
  const recordOf = ({ joined, updates, evaluations }: Progress): FederationRecord => ({
    name,
    run,
    model: model.name,
    created: created!,
    rounds,
    localSteps,
    parameters,
    wanted: rules.nodes,
    closed: told,
    joined,
    updates,
    end: isOver() ? { heldOut: meanLoss(Object.values(evaluations)) } : null,
  });
  const put = (key: string, value: RoundNumbers | FederationRecord) =>
    persistently(() => bucket.put(key, JSON.stringify(value)), ending.signal);
  const write = async (): Promise<void> => {
    if (created === null) {
      const before = await persistently(() => bucket.get(federationKey(run)), ending.signal);
      created = before?.operation === "PUT" ? before.json<FederationRecord>().created : Date.now();
    }
    const now = progress(told);
    for (const round of now.closed) {
      await put(roundKey(run, round.round), round);
      told = round.round;
    }
    const record = recordOf(now);
    const text = JSON.stringify(record);
    if (text === written) return;
    await put(federationKey(run), record);
    written = text;
  };
  let isDue = false;
  let writing: Promise<void> | null = null;
  const loop = async (): Promise<void> => {
    try {
      while (isDue) {
        isDue = false;
        await write();
      }
    } catch (error) {
      if (!ending.signal.aborted) onNote(`the rounds are not told to those who watch the fleet: ${messageOf(error)}`);
      ending.abort(error);
    }
    writing = null;
  };
  const changed = () => {
    isDue = !ending.signal.aborted;
    writing ??= loop();
  };
  return {
    changed,
    async flush() {
      changed();
      await Promise.race([writing, Bun.sleep(FLUSH_MS)]);
      ending.abort(new Error("the coordinator has ended"));
    },
  };
}
