import { RequestError, TimeoutError } from "@nats-io/transport-node";
import { messageOf, UserError } from "../../base/errors.ts";
import { connectFleet } from "../connection.ts";
import { BUCKETS, SUBJECTS } from "../names.ts";
import type { FleetOptions } from "../options.ts";
import type { CoordinatorEvent } from "./coordinator.ts";
import type { Lead } from "./lead.ts";
import { type Transport, UnreachableError } from "./messages.ts";
import { type RoundsTeller, tellRounds } from "./tell-rounds.ts";

/** Milliseconds that an answer may take: a coordinator that computes a mean answers when it has it. */
const ANSWER_MS = 20_000;

/** Milliseconds in which another coordinator of the same name would answer. */
const RIVAL_MS = 1000;

/** Connects a node to its coordinator by NATS' requests; nothing of them is stored anywhere. @throws {UserError} no server, no rights */
export async function openNatsTransport(options: FleetOptions, federation: string): Promise<Transport> {
  const connection = await connectFleet(options, `federated ${federation}`);
  const subject = SUBJECTS.federated(federation);
  return {
    async request(message) {
      try {
        const { data } = await connection.nats.request(subject, message, { timeout: ANSWER_MS });
        return data;
      } catch (error) {
        const isGone =
          error instanceof TimeoutError || error instanceof RequestError || /closed|disconnect|draining/i.test(messageOf(error));
        if (isGone) throw new UnreachableError(messageOf(error));
        throw new UserError(`--fleet ${connection.address}: ${messageOf(error)}`);
      }
    },
    close: () => connection.close(),
  };
}

/** A coordinator's side of NATS. */
export interface ServedByNats {
  /** Answers nodes from now on, and tells those who watch the fleet of the rounds. */
  begin(lead: Lead, onNote: (text: string) => void): Promise<void>;
  /** Hears what the coordinator tells. */
  took(event: CoordinatorEvent): void;
  close(): Promise<void>;
}

/** Lets nodes reach a coordinator by NATS. @throws {UserError} another coordinator that leads a federation of this name */
export async function serveByNats(options: FleetOptions, federation: string): Promise<ServedByNats> {
  const connection = await connectFleet(options, `coordinator ${federation}`);
  const { nats, address } = connection;
  const subject = SUBJECTS.federated(federation);
  const isLed = await nats.request(subject, new Uint8Array(0), { timeout: RIVAL_MS }).then(
    () => true,
    () => false,
  );
  if (isLed) {
    await connection.close();
    throw new UserError(
      `--fleet ${address}: another coordinator leads a federation named ${federation}; wait for its end, or give this one another --federation`,
    );
  }
  let teller: RoundsTeller | null = null;
  let isOver = false;
  return {
    async begin(lead, onNote) {
      nats.subscribe(subject, {
        callback(error, message) {
          // A message that the server refuses to pass on has nobody to be answered.
          if (error === null) message.respond(lead.handle(message.data));
        },
      });
      try {
        teller = tellRounds(await connection.bucket(BUCKETS.federations), federation, lead, { isOver: () => isOver, onNote });
        teller.changed();
      } catch (error) {
        // Nodes need nothing of this.
        onNote(`the rounds are not shown on the page of the fleet: ${messageOf(error)}`);
      }
    },
    took(event) {
      isOver ||= event.type === "federated";
      teller?.changed();
    },
    async close() {
      await teller?.flush();
      await connection.close();
    },
  };
}
