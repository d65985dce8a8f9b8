import { z } from "zod";
import type { Lead } from "../../fleet/federated/lead.ts";
import type { CoordinatorEvent } from "../../fleet/federated/coordinator.ts";
import { leadSchema, openLead } from "../../fleet/federated/lead.ts";
import { openLocalTraining } from "../../fleet/federated/local-training.ts";
import type { NodeNumbers } from "../../fleet/federated/messages.ts";
import { bytesEachWay, type NodeEvent, takePart } from "../../fleet/federated/node.ts";
import { secureRandom } from "../../fleet/federated/privacy/noise.ts";
import { nodeName } from "../../fleet/federated/settings.ts";
import { FLEET_OPTIONS } from "../../fleet/options.ts";
import { CHECKPOINTING_KEYS, STORAGE_KEYS, trainConfigSchema } from "../../train/config.ts";
import { validateOptions } from "../options.ts";
import { UserError } from "../../base/errors.ts";

const { fleetLease: _, ...reaching } = FLEET_OPTIONS;

const REACHING = {
  ...reaching,
  federation: nodeName.default("default").describe("name of the federation, of which one NATS server may have several"),
};

export const leadFederationSchema = z.strictObject({ ...REACHING, ...leadSchema.shape });

const { model, data, valid, columns, roles, device, threads, matmul, evalLimit } = trainConfigSchema.shape;

/** The keys of a training configuration that are a node's own. */
const OWN = {
  ...trainConfigSchema.pick(CHECKPOINTING_KEYS).shape,
  ...trainConfigSchema.pick(STORAGE_KEYS).shape,
  data,
  valid,
  columns,
  roles,
  device,
  threads,
  matmul,
  evalLimit,
};

export const joinFederationSchema = z.strictObject({
  ...REACHING,
  node: nodeName.describe("name of this node, which no other one has"),
  model: model
    .optional()
    .describe(
      "the base model on this machine: a folder, GGUF file or hub name (default: the coordinator's, if it is on the hub)",
    ),
  output: z
    .string()
    .min(1)
    .default("runs/node")
    .describe("folder of what the node keeps, and of the common adapter at the end; the same command goes on with what it holds"),
  patienceMinutes: z.number().positive().default(60).describe("how long the coordinator may be away"),
  ...OWN,
});

export type LeadFederationOptions = z.input<typeof leadFederationSchema>;
export type JoinFederationOptions = z.input<typeof joinFederationSchema>;

/** Describes what a coordinator tells. */
export type LeadEvent =
  | CoordinatorEvent
  | {
      readonly type: "leading";
      readonly run: string;
      readonly round: number;
      readonly rounds: number;
      /** Values that are learned, and bytes of an update of them, which are those of the common model's change too. */
      readonly parameters: number;
      readonly bytes: number;
    }
  | { readonly type: "note"; readonly text: string };

/** Describes what a node tells. */
export type JoinEvent = NodeEvent | { readonly type: "note"; readonly text: string };

interface FederationCallOptions<Event> {
  readonly sink?: ((event: Event) => void) | undefined;
  /** Ends the call; called again, it goes on where it was. */
  readonly signal?: AbortSignal | undefined;
}

export interface LeadFederationResult {
  /** The folder of the common adapter. */
  readonly output: string;
  readonly rounds: number;
}

/**
 * Leads a federation to its end: nodes train on their own data, which never leave them, and their updates are averaged.
 * @throws {UserError} anything in the settings that does not fit, no NATS server, an interruption (exit code 130)
 */
export async function leadFederation(
  options: LeadFederationOptions,
  { sink = () => {}, signal }: FederationCallOptions<LeadEvent> = {},
): Promise<LeadFederationResult> {
  const { federation, fleet, fleetCa, fleetCert, fleetCredentials, fleetKey, ...settings } = validateOptions(
    leadFederationSchema,
    options,
  );
  // NATS's packages are loaded by who needs them.
  const { serveByNats } = await import("../../fleet/federated/nats.ts");
  const line = await serveByNats({ fleet, fleetCa, fleetCert, fleetCredentials, fleetKey }, federation);
  let lead: Lead | null = null;
  try {
    const onNote = (text: string) => sink({ type: "note", text });
    const tell = (event: CoordinatorEvent) => {
      sink(event);
      line.took(event);
    };
    lead = await openLead(settings, { sink: tell, onNote });
    const { federation: told, parameters, round } = lead;
    sink({ type: "leading", run: told.run, round, rounds: told.rounds, parameters, bytes: bytesEachWay(parameters, told) });
    await line.begin(lead, onNote);
    await Promise.race([lead.done, aborted(signal)]);
    return { output: settings.output, rounds: told.rounds };
  } finally {
    lead?.close();
    await line.close();
  }
}

/** Rejects when a signal is aborted. */
function aborted(signal: AbortSignal | undefined): Promise<never> {
  return new Promise((_, reject) => {
    const end = () => reject(interrupted());
    if (signal?.aborted) end();
    else signal?.addEventListener("abort", end, { once: true });
  });
}

const interrupted = () => new UserError("interrupted; the same command goes on from here", 130);

export interface JoinFederationResult {
  /** The folder of the common adapter. */
  readonly output: string;
  /** The common model on the node's held-out examples; null: it has none. */
  readonly heldOut: NodeNumbers | null;
}

/**
 * Takes part in a federation to its end with data of this machine.
 * @throws {UserError} another base model than the coordinator's, examples that do not fit, no coordinator, an interruption (exit code 130)
 */
export async function joinFederation(
  options: JoinFederationOptions,
  { sink = () => {}, signal }: FederationCallOptions<JoinEvent> = {},
): Promise<JoinFederationResult> {
  const { federation, fleet, fleetCa, fleetCert, fleetCredentials, fleetKey, node, patienceMinutes, output, ...own } =
    validateOptions(joinFederationSchema, options);
  const { openNatsTransport } = await import("../../fleet/federated/nats.ts");
  const transport = await openNatsTransport({ fleet, fleetCa, fleetCert, fleetCredentials, fleetKey }, federation);
  const onNote = (text: string) => sink({ type: "note", text });
  try {
    const { heldOut } = await takePart({
      transport,
      node,
      folder: output,
      sink,
      signal,
      patienceMs: 60_000 * patienceMinutes,
      open: (told) => openLocalTraining(told, { ...own, output }, { random: secureRandom(), signal, onNote }),
    });
    return { output, heldOut };
  } catch (error) {
    throw signal?.aborted === true ? interrupted() : error;
  } finally {
    await transport.close();
  }
}
