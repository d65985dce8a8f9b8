import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { CoordinatorEvent } from "../../src/fleet/federated/coordinator.ts";
import { type Lead, leadSchema, openLead } from "../../src/fleet/federated/lead.ts";
import { openLocalTraining, type OwnSettings } from "../../src/fleet/federated/local-training.ts";
import { type Transport, UnreachableError } from "../../src/fleet/federated/messages.ts";
import { type NodeEvent, takePart } from "../../src/fleet/federated/node.ts";
import { seededRandom } from "../../src/fleet/federated/privacy/noise.ts";

/** Writes examples, one for each pair of a prompt and an answer. */
export function writeExamples(file: string, pairs: readonly (readonly [prompt: string, completion: string])[]): string {
  writeFileSync(file, pairs.map(([prompt, completion]) => `${JSON.stringify({ prompt, completion })}\n`).join(""));
  return file;
}

/** A coordinator that a test may end and begin anew, and the way to it. */
export interface LocalFederation {
  readonly events: CoordinatorEvent[];
  readonly lead: Lead;
  /** Bytes of all requests, and of all answers. */
  readonly traffic: { sent: number; received: number };
  readonly transport: Transport;
  /** Ends the coordinator as a failing machine would: what is in its memory is lost. */
  kill(): void;
  start(): Promise<void>;
}

export async function openFederation(settings: Readonly<Record<string, unknown>>): Promise<LocalFederation> {
  const events: CoordinatorEvent[] = [];
  const traffic = { sent: 0, received: 0 };
  let lead: Lead | null = null;
  const start = async () => {
    lead = await openLead(leadSchema.parse(settings), { sink: (event) => events.push(event), lingerMs: 5000 });
  };
  await start();
  return {
    events,
    traffic,
    start,
    get lead() {
      return lead!;
    },
    kill() {
      lead!.close();
      lead = null;
    },
    transport: {
      async request(message) {
        await Bun.sleep(0);
        if (!lead) throw new UnreachableError("it is gone");
        const reply = lead.handle(message);
        traffic.sent += message.length;
        traffic.received += reply.length;
        return reply;
      },
      async close() {},
    },
  };
}

/** Settings of a node in a folder of tests. */
export const ownSettings = (folder: string, node: string, data: string, more: Partial<OwnSettings> = {}): OwnSettings => ({
  data,
  output: join(folder, node),
  threads: 1,
  ...more,
});

/** Takes part with a node in this process. Returns what it told. */
export async function joinLocally(
  federation: Pick<LocalFederation, "transport">,
  node: string,
  own: OwnSettings,
  { signal, onEvent }: { readonly signal?: AbortSignal; readonly onEvent?: (event: NodeEvent) => void } = {},
): Promise<NodeEvent[]> {
  const events: NodeEvent[] = [];
  await takePart({
    transport: federation.transport,
    node,
    folder: own.output,
    open: (told) => openLocalTraining(told, own, { random: seededRandom(7, node), signal }),
    sink(event) {
      events.push(event);
      onEvent?.(event);
    },
    signal,
    patienceMs: 20_000,
    pollMs: 5,
  });
  return events;
}
