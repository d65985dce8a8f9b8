import { readFileSync } from "node:fs";
import { type JetStreamClient, jetstream, type JetStreamManager, jetstreamManager, StorageType } from "@nats-io/jetstream";
import { type KV, Kvm } from "@nats-io/kv";
import { type ObjectStore, Objm } from "@nats-io/obj";
import {
  type Authenticator,
  AuthorizationError,
  connect,
  credsAuthenticator,
  type NatsConnection,
  nkeyAuthenticator,
  PermissionViolationError,
  type TlsOptions,
  UserAuthenticationExpiredError,
  usernamePasswordAuthenticator,
} from "@nats-io/transport-node";
import { messageOf, systemCode, UserError } from "../base/errors.ts";
import { fileError } from "../base/files/files.ts";
import type { FleetOptions } from "./options.ts";
import { isAway } from "./records.ts";

/** A connection to a fleet's NATS server with JetStream. It comes back by itself whenever the server does. */
export interface FleetConnection {
  /** The addresses as they may be shown: without a password. */
  readonly address: string;
  readonly nats: NatsConnection;
  readonly js: JetStreamClient;
  readonly manager: JetStreamManager;
  /** Opens a key-value bucket, and makes it where it is missing. @param ttlMs milliseconds after which an entry that was not written again goes */
  bucket(name: string, ttlMs?: number): Promise<KV>;
  /** Opens an object store, and makes it where it is missing. */
  objects(name: string): Promise<ObjectStore>;
  /** Makes a stream of messages where it is missing. @param maxAgeMs milliseconds that a message is kept */
  stream(name: string, subjects: readonly string[], maxAgeMs: number): Promise<void>;
  close(): Promise<void>;
}

/** Milliseconds until a server that does not answer counts as absent. */
const CONNECT_MS = 5000;
/** Milliseconds between two tries to come back, and what is added at random: a thousand nodes do not come in one moment. */
const RECONNECT = { reconnectTimeWait: 250, reconnectJitter: 250, reconnectJitterTLS: 500 } as const;
/** Milliseconds between two signs of life, and how many may be missing: a server that vanished without a word is noticed after 15 seconds. */
const PING = { pingInterval: 5000, maxPingOut: 2 } as const;
/** Milliseconds that JetStream may take for an answer. */
const ANSWER_MS = 5000;

/**
 * Connects to a fleet. @param name of this process among NATS's connections
 * @throws {UserError} an address that is none, a server that does not answer or has no JetStream, rights that are missing
 */
export async function connectFleet(options: FleetOptions, name: string): Promise<FleetConnection> {
  const { servers, address, user, isEncrypted } = readAddress(options.fleet);
  const authenticator = authenticatorOf(options, user);
  const tls = tlsOf(options, isEncrypted);
  let nats: NatsConnection;
  try {
    nats = await connect({
      servers,
      name: `remat ${name}`,
      timeout: CONNECT_MS,
      maxReconnectAttempts: -1,
      // A server that starts anew may refuse for a moment what it accepted before.
      ignoreAuthErrorAbort: true,
      ...RECONNECT,
      ...PING,
      ...(authenticator && { authenticator }),
      ...(tls && { tls }),
    });
  } catch (error) {
    throw connectionError(address, error);
  }
  try {
    const manager = await jetstreamManager(nats, { timeout: ANSWER_MS });
    await manager.getAccountInfo();
    const js = jetstream(nats, { timeout: ANSWER_MS });
    const rights = async <T>(what: string, open: () => Promise<T>): Promise<T> => {
      try {
        return await open();
      } catch (error) {
        throw rightsError(address, what, error);
      }
    };
    return {
      address,
      nats,
      js,
      manager,
      bucket: (bucket, ttlMs) =>
        rights(`the key-value bucket ${bucket}`, () =>
          new Kvm(js).create(bucket, { storage: StorageType.File, history: 1, ...(ttlMs !== undefined && { ttl: ttlMs }) }),
        ),
      objects: (store) => rights(`the object store ${store}`, () => new Objm(js).create(store, { storage: StorageType.File })),
      stream: (stream, subjects, maxAgeMs) =>
        rights(`the stream ${stream}`, async () => {
          const isThere = await manager.streams.info(stream).then(
            () => true,
            () => false,
          );
          if (!isThere)
            await manager.streams.add({
              name: stream,
              subjects: [...subjects],
              storage: StorageType.File,
              max_age: maxAgeMs * 1e6,
            });
        }),
      async close() {
        // A server that is away cannot take leave of anybody.
        await Promise.race([nats.close(), Bun.sleep(1000)]);
      },
    };
  } catch (error) {
    await nats.close();
    throw error instanceof UserError ? error : rightsError(address, "JetStream", error);
  }
}

/** The parts of `--fleet`. */
interface Address {
  readonly servers: string[];
  readonly address: string;
  readonly user: { readonly name: string; readonly password: string } | null;
  readonly isEncrypted: boolean;
}

/** @throws {UserError} */
function readAddress(text: string): Address {
  const urls = text.split(",").map((part) => {
    const given = part.trim();
    const url = URL.canParse(given.includes("://") ? given : `nats://${given}`)
      ? new URL(given.includes("://") ? given : `nats://${given}`)
      : null;
    if (url === null || !["nats:", "tls:"].includes(url.protocol) || url.hostname === "" || !["", "/"].includes(url.pathname))
      throw new UserError(`--fleet: expected nats://HOST:PORT or tls://HOST:PORT, got ${JSON.stringify(withoutPassword(given))}`);
    return url;
  });
  const [withUser] = urls.filter(({ username }) => username !== "");
  return {
    servers: urls.map(({ hostname, port }) => `${hostname}:${port || 4222}`),
    address: urls.map(({ protocol, host }) => `${protocol}//${host}`).join(","),
    user: withUser ? { name: decodeURIComponent(withUser.username), password: decodeURIComponent(withUser.password) } : null,
    isEncrypted: urls.some(({ protocol }) => protocol === "tls:"),
  };
}

const withoutPassword = (text: string): string => text.replace(/\/\/[^@/]*@/, "//");

/** @throws {UserError} a credentials file that is none */
function authenticatorOf({ fleetCredentials }: FleetOptions, user: Address["user"]): Authenticator | null {
  if (fleetCredentials === undefined) return user === null ? null : usernamePasswordAuthenticator(user.name, user.password);
  if (user !== null) throw new UserError("--fleet-credentials and a user in --fleet are two ways to say who this is; give one");
  const bytes = readFlagFile("--fleet-credentials", fleetCredentials);
  const text = new TextDecoder().decode(bytes);
  if (/-----BEGIN NATS USER JWT-----/.test(text) && /-----BEGIN USER NKEY SEED-----/.test(text)) return credsAuthenticator(bytes);
  const seed = text.split("\n").find((line) => /^SU[A-Z2-7]{56}$/.test(line.trim()));
  if (seed !== undefined) return nkeyAuthenticator(new TextEncoder().encode(seed.trim()));
  throw new UserError(
    `--fleet-credentials ${fleetCredentials}: expected a NATS credentials file (with a user's JWT and seed) or the seed of a user's nkey (SU...); the file has neither`,
  );
}

/** @throws {UserError} */
function tlsOf({ fleetCa, fleetCert, fleetKey }: FleetOptions, isEncrypted: boolean): TlsOptions | null {
  if ((fleetCert === undefined) !== (fleetKey === undefined))
    throw new UserError("--fleet-cert and --fleet-key belong together; one of them is missing");
  const read = (flag: string, path: string) => new TextDecoder().decode(readFlagFile(flag, path));
  const files = {
    ...(fleetCa !== undefined && { ca: read("--fleet-ca", fleetCa) }),
    ...(fleetCert !== undefined && { cert: read("--fleet-cert", fleetCert) }),
    ...(fleetKey !== undefined && { key: read("--fleet-key", fleetKey) }),
  };
  return isEncrypted || Object.keys(files).length > 0 ? files : null;
}

/** @throws {UserError} */
function readFlagFile(flag: string, path: string): Uint8Array {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new UserError(`${flag}: ${fileError("read", path, error).message}`);
  }
}

const isRefusal = (error: unknown): boolean =>
  error instanceof AuthorizationError || error instanceof UserAuthenticationExpiredError || /auth/i.test(messageOf(error));

function connectionError(address: string, error: unknown): UserError {
  if (isRefusal(error))
    return new UserError(
      `--fleet ${address}: the NATS server refuses this user (${messageOf(error)}); give its user and password in the address, or --fleet-credentials`,
    );
  const code = systemCode(error);
  if (/^(?:UNABLE_TO_|CERT_|SELF_SIGNED|DEPTH_ZERO|ERR_TLS)/.test(code ?? ""))
    return new UserError(
      `--fleet ${address}: the server's certificate is not trusted (${messageOf(error)}); give its authority's file by --fleet-ca, and a host that the certificate names`,
    );
  const how = code === null ? messageOf(error) : `${messageOf(error)}, ${code}`;
  return new UserError(`--fleet ${address}: no NATS server answers there (${how}); start one with JetStream: nats-server -js`);
}

function rightsError(address: string, what: string, error: unknown): UserError {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  if (cause instanceof PermissionViolationError || /permission/i.test(messageOf(error)))
    return new UserError(
      `--fleet ${address}: this user has no right to use ${what} (${messageOf(cause)}); docs/fleet.md lists the rights`,
    );
  if (
    /jetstream.*not enabled|no responders/i.test(`${messageOf(error)} ${messageOf(cause)}`) ||
    error?.constructor.name === "JetStreamNotEnabled"
  )
    return new UserError(`--fleet ${address}: this NATS server has no JetStream; start it with: nats-server -js`);
  if (isAway(error)) return new UserError(`--fleet ${address}: no NATS server answers there any more (${messageOf(error)})`);
  return new UserError(`--fleet ${address}: ${what} cannot be opened: ${messageOf(error)}`);
}
