import type { NatsConnection } from "@nats-io/transport-node";

/** A way for large messages between two members of a fleet, over two subjects. */
export interface NatsWay {
  send(message: Uint8Array): void;
  /** Tells the other end, unless it knows. */
  close(): void;
}

export interface NatsWayOptions {
  /** The subjects that this end writes to and reads. */
  readonly to: string;
  readonly from: string;
  /** Milliseconds without a word after which the other end counts as dead. */
  readonly silence: number;
  message(bytes: Uint8Array): void;
  /** Told of bytes as they go. */
  counted?(direction: "sent" | "received", bytes: number): void;
  /** Called at most once, not by `close`. */
  closed(why: string): void;
}

/** Bytes of a piece of a message: NATS takes 1 MiB, and a server may take less. */
const PIECE = 256 << 10;
/** Pieces that may be under way: what a server holds for a reader that is slow is bounded. */
const WINDOW = 32;
/** Signs of life in the time after which silence is death. */
const BEATS = 5;

/** The first byte of a frame; a piece and its receipt have a number behind it. */
const FRAME = { piece: 0, last: 1, receipt: 2, beat: 3, bye: 4 } as const;
const HEAD = 5;

/**
 * NATS hands each message over at most once and in order. Pieces are numbered, so that one that is lost, when a connection breaks for example,
 * ends the way: both ends then begin anew with another one.
 */
export function openNatsWay(nats: NatsConnection, { to, from, silence, message, counted, closed }: NatsWayOptions): NatsWay {
  const size = Math.min(PIECE, (nats.info?.max_payload ?? PIECE + HEAD) - HEAD);
  const waiting: { readonly kind: number; readonly bytes: Uint8Array }[] = [];
  let [sent, received, taken, heard] = [0, 0, 0, performance.now()];
  let parts: Uint8Array[] = [];
  let isOpen = true;

  const frame = (kind: number, number = 0, bytes: Uint8Array = new Uint8Array(0)) => {
    const data = new Uint8Array(HEAD + bytes.length);
    data[0] = kind;
    new DataView(data.buffer).setUint32(1, number, true);
    data.set(bytes, HEAD);
    try {
      nats.publish(to, data);
      counted?.("sent", data.length);
    } catch {
      // A connection that is closed for good: silence tells the other end, and this one.
    }
  };
  const pump = () => {
    while (isOpen && waiting.length > 0 && sent - taken < WINDOW) {
      const { kind, bytes } = waiting.shift()!;
      frame(kind, sent++, bytes);
    }
  };
  const end = () => {
    isOpen = false;
    clearInterval(timer);
    reading.unsubscribe();
  };
  const lose = (why: string) => {
    if (!isOpen) return;
    end();
    closed(why);
  };
  const take = (data: Uint8Array) => {
    heard = performance.now();
    counted?.("received", data.length);
    const number = data.length >= HEAD ? new DataView(data.buffer, data.byteOffset).getUint32(1, true) : 0;
    switch (data[0]) {
      case FRAME.piece:
      case FRAME.last:
        if (number !== received++) return lose("a part of what it sent was lost");
        frame(FRAME.receipt, received);
        parts.push(data.slice(HEAD));
        if (data[0] === FRAME.piece) return;
        return message(joined(parts.splice(0)));
      case FRAME.receipt:
        taken = Math.max(taken, number);
        return pump();
      case FRAME.bye:
        return lose("it has left");
      default:
    }
  };
  const reading = nats.subscribe(from, {
    callback(error, { data }) {
      if (isOpen && error === null) take(data);
    },
  });
  const timer = setInterval(() => {
    frame(FRAME.beat);
    if (performance.now() - heard > silence) lose(`nothing was heard of it for ${Math.round(silence / 1000)} seconds`);
  }, silence / BEATS);
  return {
    send(bytes) {
      for (let at = 0; at < bytes.length; at += size) {
        const piece = bytes.subarray(at, at + size);
        waiting.push({ kind: at + size < bytes.length ? FRAME.piece : FRAME.last, bytes: piece });
      }
      pump();
    },
    close() {
      if (!isOpen) return;
      frame(FRAME.bye);
      end();
    },
  };
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
