import { isRecord } from "../base/json.ts";
import type { Reach } from "../data/tokens/reach.ts";
import { ApiError } from "./http/errors.ts";

/** The size of a context. */
export interface Room {
  readonly tokens: number;
  readonly reach: Reach | null;
}

/**
 * Refuses what is too long by its bytes, before anything is done with it. Nothing that would fit is refused: the template loses
 * none of the contents but an answer's, and white space around any.
 * @param body a request that has not been checked
 * @throws {ApiError}
 */
export function checkBodySize(room: Room, body: unknown): void {
  if (!isRecord(body)) return;
  const { prompt, messages, input } = body;
  if (prompt !== undefined) {
    const only: unknown = Array.isArray(prompt) && prompt.length === 1 ? prompt[0] : prompt;
    if (typeof only === "string") checkTextSize(room, only, "prompt");
    else if (Array.isArray(only) && only.length > room.tokens) throw tooLong("prompt", `${only.length} tokens`, room);
  }
  // A message has a token at least.
  if (Array.isArray(messages) && messages.length > room.tokens) throw tooLong("messages", `${messages.length} messages`, room);
  if (typeof input === "string") checkTextSize(room, input, "input");
  if (Array.isArray(messages)) checkContents(room, messages, "messages");
  if (Array.isArray(input)) checkContents(room, input, "input");
}

function checkContents(room: Room, messages: readonly unknown[], param: string): void {
  let bytes = 0;
  for (const message of messages) {
    if (!isRecord(message) || message["role"] === "assistant" || message["type"] === "reasoning") continue;
    const { content } = message;
    const parts = Array.isArray(content)
      ? content.map((part: unknown) => (isRecord(part) ? part["text"] : undefined))
      : [content];
    for (const text of parts) if (typeof text === "string") bytes += bytesOf(text.trim(), room);
  }
  checkBytes(room, bytes, param);
}

/** @throws {ApiError} a text that has more tokens than there is room for, whatever its tokens are */
export function checkTextSize(room: Room, text: string, param: string): void {
  checkBytes(room, bytesOf(text, room), param);
}

function checkBytes(room: Room, bytes: number, param: string): void {
  const most = room.reach === null ? Infinity : room.tokens * room.reach.bytes;
  if (bytes > most) throw tooLong(param, `${bytes} bytes`, room, " can hold");
}

function bytesOf(text: string, { tokens, reach }: Room): number {
  const bytes = Buffer.byteLength(text);
  if (reach === null || !reach.visibleOnly || bytes <= tokens * reach.bytes) return bytes;
  return Buffer.byteLength(text.replaceAll(/\s+/g, ""));
}

/** @param size what there is, such as `5000 tokens` */
export function tooLong(param: string, size: string, { tokens }: Pick<Room, "tokens">, end = ""): ApiError {
  return new ApiError(400, `${param}: ${size}, more than the maximum context length of ${tokens} tokens${end}; shorten it`, {
    param,
    code: "context_length_exceeded",
  });
}
