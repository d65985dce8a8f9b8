import { NoRespondersError, RequestError } from "@nats-io/transport-node";
import type { Federation, FederationRound } from "../../page/api/types.ts";
import type { HomeFederations } from "../../serve/home/fleet/fleet-api.ts";
import type { RoundNumbers } from "../federated/coordinator.ts";
import { type FederationRecord, roundKey } from "../federated/tell-rounds.ts";
import type { Fleet } from "../fleet.ts";
import { follow } from "../follow.ts";
import { SUBJECTS } from "../names.ts";

/** Milliseconds in which a coordinator says that it is there. */
const THERE_MS = 500;

interface Known {
  record: FederationRecord | null;
  /** By their numbers. */
  readonly rounds: Map<number, RoundNumbers>;
}

/** Follows what coordinators tell of their rounds, for the clients of a front. */
export function followFederations({ nats, buckets }: Fleet): HomeFederations & { end(): void } {
  const known = new Map<string, Known>();
  const following = follow<FederationRecord | RoundNumbers>(nats, buckets.federations, ">", (key, value) => {
    const [run, round] = key.split(".") as [string, string?];
    if (!known.has(run)) known.set(run, { record: null, rounds: new Map() });
    const { rounds } = known.get(run)!;
    if (round === undefined) known.get(run)!.record = value as FederationRecord | null;
    else if (value === null) rounds.delete(Number(round));
    else rounds.set(Number(round), value as RoundNumbers);
  });
  const all = () => [...known.values()].flatMap(({ record }) => record ?? []).sort((a, b) => b.created - a.created);

  /** Tells whether a coordinator leads it: of several of one name it can only be the newest. */
  const isLed = async ({ name, run, end }: FederationRecord): Promise<boolean> => {
    if (end !== null || all().find((each) => each.name === name)!.run !== run) return false;
    try {
      await nats.request(SUBJECTS.federated(name), new Uint8Array(0), { timeout: THERE_MS });
      return true;
    } catch (error) {
      const isNobody = error instanceof NoRespondersError || (error instanceof RequestError && error.isNoResponders());
      // One that computes a mean answers when it has it.
      return !isNobody;
    }
  };
  const view = async (record: FederationRecord): Promise<Federation> => {
    const { run, name, model, created, rounds, localSteps, parameters, wanted, closed, joined, updates, end } = record;
    const last = known.get(run)!.rounds.get(closed);
    return {
      id: run,
      object: "federation",
      name,
      model,
      status: end !== null ? "succeeded" : (await isLed(record)) ? "running" : "away",
      created_at: Math.floor(created / 1000),
      rounds,
      closed,
      local_steps: localSteps,
      parameters,
      wanted,
      nodes: joined,
      updates,
      valid_loss: end !== null ? end.heldOut : (last?.heldOut ?? null),
    };
  };
  return {
    list: () => Promise.all(all().map(view)),
    async find(id, after) {
      const found = known.get(id);
      if (!found?.record) return null;
      const data = [...found.rounds.values()].filter(({ round }) => round > after && round <= found.record!.closed);
      return { ...(await view(found.record)), data: data.sort((a, b) => a.round - b.round).map(roundView) };
    },
    async remove(id) {
      const found = known.get(id);
      if (!found?.record) return "missing";
      if (await isLed(found.record)) return "running";
      for (const round of found.rounds.keys()) await buckets.federations.purge(roundKey(id, round));
      await buckets.federations.purge(id);
      known.delete(id);
      return "removed";
    },
    end: () => following.end(),
  };
}

function roundView({ round, nodes, heldOut, lost, change, seconds }: RoundNumbers): FederationRound {
  return {
    round,
    valid_loss: heldOut,
    lost,
    seconds,
    bytes_received: nodes.reduce((sum, { bytes }) => sum + bytes, 0),
    bytes_sent: change * nodes.length,
    nodes: nodes.map(({ node, examples, share, tokens, loss, heldOut: own, epsilon, bytes, seconds: took }) => ({
      id: node,
      examples,
      share,
      tokens,
      train_loss: loss,
      valid_loss: own?.loss ?? null,
      epsilon,
      bytes,
      seconds: took,
    })),
  };
}
