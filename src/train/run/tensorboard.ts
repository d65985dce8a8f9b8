import { closeSync, openSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { fileError, writeFully } from "../../base/files/files.ts";
import { METRICS } from "../../objectives/index.ts";
import type { EventSink, RunEvent } from "./events.ts";
import { RUN_FILES } from "./folder.ts";

/**
 * Event files of TensorBoard: TFRecords (u64 length, masked CRC-32C of it, the bytes, their masked CRC-32C) of `Event`
 * messages (tensorflow/core/util/event.proto and framework/summary.proto).
 */

/** Scalars of an event, by TensorBoard's tag. */
function scalarsOf(event: RunEvent): Readonly<Record<string, number>> {
  const tagged = (group: string, metrics: Readonly<Record<string, number>>) =>
    Object.fromEntries(
      [...METRICS.values()].flatMap(({ name, tag = name }) =>
        metrics[name] === undefined ? [] : [[`${group}/${tag}`, metrics[name]]],
      ),
    );
  if (event.type === "step") {
    return {
      "train/loss": event.loss,
      ...tagged("train", event.metrics),
      "train/learning_rate": event.learningRate,
      "train/gradient_norm": event.gradientNorm,
      ...(event.lossScale !== undefined && { "train/loss_scale": event.lossScale }),
      "train/epoch": event.epoch,
      "train/tokens_per_second": event.tokens / event.seconds,
      "train/memory_bytes": event.memory,
    };
  }
  if (event.type === "evaluation") return { "eval/loss": event.loss, ...tagged("eval", event.metrics) };
  return {};
}

export interface TensorBoardFile {
  readonly write: EventSink;
  close(): void;
}

/**
 * Opens a new event file in a run folder. What older files say of step `from` and of later ones is dropped by TensorBoard.
 * @throws {UserError} the file cannot be written
 */
export function openTensorBoard(folder: string, from: number, now: () => number = () => Date.now() / 1000): TensorBoardFile {
  const path = join(folder, `${RUN_FILES.tensorBoard}.${Math.floor(now())}.${hostname()}.${process.pid}.0`);
  let fd: number;
  try {
    fd = openSync(path, "ax");
  } catch (error) {
    throw fileError("write", path, error);
  }
  const write = (fill: (writer: BinaryWriter) => void) => {
    const writer = new BinaryWriter();
    writer.tag(EVENT.wallTime, WireType.Bit64).double(now());
    fill(writer);
    try {
      writeFully(fd, record(writer.finish()));
    } catch (error) {
      throw fileError("write", path, error);
    }
  };
  write((writer) => writer.tag(EVENT.fileVersion, WireType.LengthDelimited).string("brain.Event:2"));
  write((writer) => {
    writer.tag(EVENT.step, WireType.Varint).int64(from);
    writer.tag(EVENT.sessionLog, WireType.LengthDelimited).fork().tag(1, WireType.Varint).int32(SESSION_START).join();
  });
  return {
    write(event) {
      const scalars = Object.entries(scalarsOf(event));
      if (scalars.length === 0 || !("step" in event)) return;
      write((writer) => {
        writer.tag(EVENT.step, WireType.Varint).int64(event.step);
        writer.tag(EVENT.summary, WireType.LengthDelimited).fork();
        for (const [tag, value] of scalars) {
          writer.tag(1, WireType.LengthDelimited).fork();
          writer.tag(1, WireType.LengthDelimited).string(tag).tag(2, WireType.Bit32).float(value);
          writer.join();
        }
        writer.join();
      });
    },
    close: () => closeSync(fd),
  };
}

/** Fields of `Event`. */
const EVENT = { wallTime: 1, step: 2, fileVersion: 3, summary: 5, sessionLog: 7 } as const;
/** `SessionLog.status`: what is known of this step and later ones is void. */
const SESSION_START = 1;

function record(data: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(16 + data.length);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(data.length), true);
  view.setUint32(8, masked(crc32c(bytes.subarray(0, 8))), true);
  bytes.set(data, 12);
  view.setUint32(12 + data.length, masked(crc32c(data)), true);
  return bytes;
}

/** TFRecord's mask, so that a checksum of data that holds checksums is none of them. */
function masked(crc: number): number {
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

const TABLE = Uint32Array.from({ length: 256 }, (_, i) => {
  let crc = i;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** CRC-32C (Castagnoli, RFC 3720, B.4). */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 255]! ^ (crc >>> 8);
  return ~crc >>> 0;
}
