import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import type { RunEvent } from "../../src/train/run/events.ts";
import { crc32c, openTensorBoard } from "../../src/train/run/tensorboard.ts";
import { temporaryFolder } from "../hf/temp.ts";

const step = (n: number): RunEvent => ({
  type: "step",
  step: n,
  steps: 10,
  epoch: 0,
  loss: 1 / n,
  metrics: {},
  learningRate: 1e-3,
  gradientNorm: 2,
  tokens: 100,
  seconds: 0.5,
  forwardBackward: { measured: 0.4, predicted: 0.3 },
  tokensPerSecond: 190,
  memory: 1 << 20,
  secondsLeft: 1,
});

interface Parsed {
  wallTime: number;
  step: number;
  version: string;
  scalars: Record<string, number>;
  sessionStatus: number;
}

/** Reads TFRecords and the fields of `Event` that are written; throws where a length or a checksum is wrong. */
function read(path: string): Parsed[] {
  const bytes = readFileSync(path);
  const events: Parsed[] = [];
  const expectChecksum = (from: number, to: number) => {
    const crc = crc32c(bytes.subarray(from, to));
    expect(bytes.readUInt32LE(to)).toBe((((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0);
  };
  for (let at = 0; at < bytes.length;) {
    const length = Number(bytes.readBigUInt64LE(at));
    expectChecksum(at, at + 8);
    expectChecksum(at + 12, at + 12 + length);
    events.push(parse(bytes.subarray(at + 12, at + 12 + length)));
    at += 16 + length;
  }
  return events;
}

function parse(bytes: Uint8Array): Parsed {
  const event: Parsed = { wallTime: 0, step: 0, version: "", scalars: {}, sessionStatus: 0 };
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [field, wire] = reader.tag();
    if (field === 1) event.wallTime = reader.double();
    else if (field === 2) event.step = Number(reader.int64());
    else if (field === 3) event.version = reader.string();
    else if (field === 5) scalars(new BinaryReader(reader.bytes()), event.scalars);
    else if (field === 7) {
      const log = new BinaryReader(reader.bytes());
      log.tag();
      event.sessionStatus = log.int32();
    } else reader.skip(wire);
  }
  return event;
}

function scalars(summary: BinaryReader, into: Record<string, number>): void {
  while (summary.pos < summary.len) {
    summary.tag();
    const value = new BinaryReader(summary.bytes());
    value.tag();
    const tag = value.string();
    value.tag();
    into[tag] = value.float();
  }
}

const files = (folder: string) => readdirSync(folder).sort();

test("CRC-32C of RFC 3720's examples", () => {
  expect(crc32c(new TextEncoder().encode("123456789"))).toBe(0xe3069283);
  expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
  expect(crc32c(new Uint8Array(32).fill(255))).toBe(0x62a8ab43);
});

test("steps and evaluations become scalars", () => {
  const folder = temporaryFolder();
  const file = openTensorBoard(folder, 0, () => 1234.5);
  file.write(step(1));
  file.write({ type: "message", text: "no scalar" });
  file.write({
    type: "evaluation",
    step: 1,
    loss: 0.5,
    labelled: 7,
    metrics: { accuracy: 0.25, perplexity: Math.exp(0.5), "rewards/margins": 2 },
  });
  file.close();
  expect(files(folder)[0]).toStartWith("events.out.tfevents.1234.");
  const [version, start, first, evaluation, ...rest] = read(join(folder, files(folder)[0]!));
  expect(rest).toEqual([]);
  expect(version).toMatchObject({ version: "brain.Event:2", wallTime: 1234.5 });
  expect(start).toMatchObject({ step: 0, sessionStatus: 1 });
  expect(first!.step).toBe(1);
  expect(first!.scalars).toEqual({
    "train/loss": 1,
    "train/learning_rate": Math.fround(1e-3),
    "train/gradient_norm": 2,
    "train/epoch": 0,
    "train/tokens_per_second": 200,
    "train/memory_bytes": 1 << 20,
  });
  expect(evaluation!.scalars).toEqual({
    "eval/loss": 0.5,
    "eval/perplexity": Math.fround(Math.exp(0.5)),
    "eval/token_accuracy": 0.25,
    "eval/rewards/margins": 2,
  });
});

test("a resumed run voids what older files say of later steps, in a file of its own", () => {
  const folder = temporaryFolder();
  openTensorBoard(folder, 0, () => 10).close();
  const file = openTensorBoard(folder, 5, () => 20);
  file.write(step(5));
  file.close();
  expect(files(folder).length).toBe(2);
  const [, start, first] = read(join(folder, files(folder)[1]!));
  expect(start).toMatchObject({ step: 5, sessionStatus: 1 });
  expect(first!.step).toBe(5);
});
