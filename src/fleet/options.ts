import { z } from "zod";

/** Flags by which a verb reaches a fleet. */
export const FLEET_OPTIONS = {
  fleet: z
    .string()
    .min(1)
    .describe("NATS server of the fleet, such as nats://10.0.0.5:4222 or tls://USER:PASSWORD@HOST; several are parted by commas"),
  fleetCredentials: z
    .string()
    .min(1)
    .optional()
    .describe("with --fleet: NATS credentials file (.creds), or a file with the seed of an nkey"),
  fleetCa: z
    .string()
    .min(1)
    .optional()
    .describe("with --fleet: file of the certificate authority that the server's certificate is signed by"),
  fleetCert: z
    .string()
    .min(1)
    .optional()
    .describe("with --fleet: file of this machine's certificate, where the server asks for one"),
  fleetKey: z.string().min(1).optional().describe("with --fleet: file of the key of --fleet-cert"),
  fleetLease: z
    .number()
    .min(0.5)
    .max(600)
    .optional()
    .describe("with --fleet: seconds without a sign of life from a machine after which others go on with what it did (15)"),
} as const;

const schema = z.object(FLEET_OPTIONS);

export type FleetOptions = z.input<typeof schema>;
