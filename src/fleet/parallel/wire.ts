import type { FromWorker, ToWorker } from "../../train/nodes/messages.ts";

/** Messages between a coordinator and its workers as bytes: the length of a JSON text, that text, and the bytes of its tensor, where it has one. */
const HEAD = 4;

type Message = ToWorker | FromWorker;

export function encode(message: Message): Uint8Array<ArrayBuffer> {
  const values = "values" in message ? message.values : new Uint8Array(0);
  const text = new TextEncoder().encode(JSON.stringify({ ...message, values: null }, replaced));
  const bytes = new Uint8Array(HEAD + text.length + values.length);
  new DataView(bytes.buffer).setUint32(0, text.length, true);
  bytes.set(text, HEAD);
  bytes.set(values, HEAD + text.length);
  return bytes;
}

/** @throws {Error} bytes that are no message */
export function decode<M extends Message>(bytes: Uint8Array): M {
  if (bytes.length < HEAD) throw new Error("a message without a head");
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  if (HEAD + length > bytes.length) throw new Error("a message that is cut short");
  const text = new TextDecoder().decode(bytes.subarray(HEAD, HEAD + length));
  const { values: _, ...message } = JSON.parse(text, restored) as Record<string, unknown>;
  const isTensor = message["type"] === "parameters" || message["type"] === "learned";
  return (isTensor ? { ...message, values: bytes.slice(HEAD + length) } : message) as M;
}

/** The key of what JSON has no word for: numbers that are not finite and -0 by their names, vectors of f32 in base 64. */
const OTHER = "#";

function replaced(_: string, value: unknown): unknown {
  if (typeof value === "number" && (!Number.isFinite(value) || Object.is(value, -0)))
    return { [OTHER]: Object.is(value, -0) ? "-0" : String(value) };
  if (!(value instanceof Float32Array)) return value;
  return { [OTHER]: "f32", bytes: Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("base64") };
}

function restored(_: string, value: unknown): unknown {
  if (typeof value !== "object" || value === null || !(OTHER in value)) return value;
  const { [OTHER]: what, bytes } = value as { readonly [OTHER]: string; readonly bytes?: string };
  if (what !== "f32") return Number(what);
  return new Float32Array(Uint8Array.from(Buffer.from(bytes!, "base64")).buffer);
}
