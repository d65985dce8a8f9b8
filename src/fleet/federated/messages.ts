import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { parseJson } from "../../base/json.ts";
import { parseWith } from "../../base/schema.ts";
import { federationSchema, nodeName } from "./settings.ts";

/**
 * The protocol of coordinator and nodes, whatever carries it. A node asks, the coordinator answers: a node needs no open port, and either may vanish
 * at any time, since every request may be repeated. Nothing else is ever sent: no example, no text, no name of a file.
 *
 * A message is a JSON object with its length in front, 4 bytes little-endian, and bytes behind it.
 */

/** Changes when a message means something else than before. */
export const PROTOCOL = 1;

/** Bytes of a part of a larger thing: NATS takes messages of 1 MiB. */
export const PART_BYTES = 512 * 1024;

/** The model on a node's held-out examples: numbers alone. */
export const numbersSchema = z.strictObject({
  loss: z.number(),
  labelled: z.int().min(0),
  metrics: z.record(z.string().max(64), z.number()).refine((metrics) => Object.keys(metrics).length <= 64),
});
export type NodeNumbers = z.output<typeof numbersSchema>;

const run = z.string();
const round = z.int().min(1);
const part = z.int().min(0);
const digest = z.string();

/** A description of what was learned in a round, beside its bytes. */
export const reportSchema = z.strictObject({
  /** Training examples; how much the update counts. */
  examples: z.int().min(1),
  /** Tokens that were trained on in the round; null: not told, since it would say which examples were drawn. */
  tokens: z.int().min(0).nullable(),
  /** Mean training loss of the round; null: not told. */
  loss: z.number().nullable(),
  /** The model that the round began with, on the node's held-out examples; null: it has none. */
  heldOut: numbersSchema.nullable(),
  /** Spent so far by what the node has sent; null: without DP-SGD. */
  epsilon: z.number().nullable(),
  seconds: z.number().min(0),
});
export type NodeReport = z.output<typeof reportSchema>;

const requestSchema = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("join"), protocol: z.int(), version: z.string(), node: nodeName }),
  z.strictObject({ type: z.literal("status"), run, node: nodeName }),
  /** A part of the change of the common model from the round before. */
  z.strictObject({ type: z.literal("change"), run, round, part }),
  /** A part of the whole common model at the begin of the present round, f32. */
  z.strictObject({ type: z.literal("model"), run, round, part }),
  z.strictObject({ type: z.literal("upload"), run, node: nodeName, round, part, parts: z.int().min(1).max(100_000) }),
  z.strictObject({ type: z.literal("commit"), run, node: nodeName, round, digest, report: reportSchema }),
  z.strictObject({ type: z.literal("evaluation"), run, node: nodeName, heldOut: numbersSchema.nullable() }),
]);
export type Request = z.output<typeof requestSchema>;

const replySchema = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("welcome"), federation: federationSchema }),
  /** The round that is open; after the last one, the number behind it. `model` is the SHA-256 of the model that it begins with. */
  z.strictObject({ type: z.literal("round"), round, isDone: z.boolean(), model: digest, isIn: z.boolean() }),
  z.strictObject({ type: z.literal("part"), parts: z.int().min(1) }),
  /** That change is not kept any more. */
  z.strictObject({ type: z.literal("gone") }),
  z.strictObject({ type: z.literal("received") }),
  /** An update that counts, or does not: a round that was closed takes none. */
  z.strictObject({ type: z.literal("committed"), counts: z.boolean() }),
  /** `again`: parts are missing, which are to be sent again. */
  z.strictObject({ type: z.literal("refused"), message: z.string(), again: z.boolean() }),
]);
export type Reply = z.output<typeof replySchema>;

export interface Message<T> {
  readonly head: T;
  readonly body: Uint8Array;
}

const EMPTY = new Uint8Array(0);

function write(head: Request | Reply, body: Uint8Array): Uint8Array {
  const json = new TextEncoder().encode(JSON.stringify(head));
  const bytes = new Uint8Array(4 + json.length + body.length);
  new DataView(bytes.buffer).setUint32(0, json.length, true);
  bytes.set(json, 4);
  bytes.set(body, 4 + json.length);
  return bytes;
}

export const writeRequest = (head: Request, body: Uint8Array = EMPTY): Uint8Array => write(head, body);
export const writeReply = (head: Reply, body: Uint8Array = EMPTY): Uint8Array => write(head, body);

/** @throws {UserError} bytes that are no message of this kind */
function read<T>(bytes: Uint8Array, schema: z.ZodType<T>, from: string): Message<T> {
  const where = `a message of ${from}`;
  const length = bytes.length < 4 ? Infinity : new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  if (4 + length > bytes.length) throw new UserError(`${where} is cut short, or none of this protocol`);
  const text = new TextDecoder().decode(bytes.subarray(4, 4 + length));
  return { head: parseWith(schema, parseJson(text, where), where), body: bytes.subarray(4 + length) };
}

export const readRequest = (bytes: Uint8Array): Message<Request> => read<Request>(bytes, requestSchema, "a node");
export const readReply = (bytes: Uint8Array): Message<Reply> => read<Reply>(bytes, replySchema, "the coordinator");

/** How a node reaches its coordinator. */
export interface Transport {
  /** Sends a request and resolves to the reply. @throws {UnreachableError} nobody answers now; it may be tried again */
  request(message: Uint8Array): Promise<Uint8Array>;
  close(): Promise<void>;
}

/** Thrown where nobody answers for the moment. */
export class UnreachableError extends Error {}

/** Parts of some bytes: at least one. */
export const partsOf = (bytes: number): number => Math.max(1, Math.ceil(bytes / PART_BYTES));

export const partAt = (bytes: Uint8Array, index: number): Uint8Array =>
  bytes.subarray(index * PART_BYTES, (index + 1) * PART_BYTES);
