import { RequestError, TimeoutError } from "@nats-io/transport-node";
import { messageOf, UserError } from "../../base/errors.ts";
import { connectFleet } from "../connection.ts";
import { SUBJECTS } from "../names.ts";
import type { FleetOptions } from "../options.ts";
import type { Coordinator } from "./coordinator.ts";
import { type Transport, UnreachableError } from "./messages.ts";

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

/** Lets nodes reach a coordinator by NATS. @throws {UserError} another coordinator that leads a federation of this name */
export async function serveByNats(
  options: FleetOptions,
  federation: string,
): Promise<{ begin(coordinator: Coordinator): void; close(): Promise<void> }> {
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
  return {
    begin(coordinator) {
      nats.subscribe(subject, {
        callback(error, message) {
          // A message that the server refuses to pass on has nobody to be answered.
          if (error === null) message.respond(coordinator.handle(message.data));
        },
      });
    },
    close: () => connection.close(),
  };
}
