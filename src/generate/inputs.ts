import type { ModelConfig } from "../models/config.ts";
import { createRope } from "../models/rotary-tables.ts";
import type { TableRows } from "../load/streamed-weights.ts";
import { rotaryInputs } from "../models/parts.ts";
import { type Address, align, type Executor } from "../runtime/executor.ts";

/** A token that a text goes on by. */
export interface Next {
  readonly id: number;
  readonly position: number;
  /** The first position that the token attends to; windows begin later. */
  readonly start: number;
}

/** The inputs of role `batch` of a decoder's programs. */
export interface DecoderInputs {
  readonly addresses: ReadonlyMap<string, Address>;
  /** `ids` at positions from `position` on of a text of `length` tokens, padded to `tokens`. */
  load(ids: readonly number[], position: number, tokens: number, length: number): void;
  /** One token of each text. */
  loadTogether(next: readonly Next[]): void;
}

/** 32-bit words of each input, for up to `tokens` tokens of one text, or one of each of `texts`. */
function inputWords(config: ModelConfig, tokens: number, texts: number): Record<string, number> {
  const most = Math.max(tokens, texts);
  const angles = rotaryInputs(config).flatMap(({ names, dim }) => names.map((name) => [name, (most * dim) / 2]));
  const table = config.positionTable ? { positions: most } : {};
  const told = config.layerInputs ? { tableIds: most } : {};
  const each = { ids: most, ...told, starts: most, windowStarts: most, ...table, ...Object.fromEntries(angles) };
  return { ...each, position: texts, rows: texts, rng: 2, segment: 1 };
}

/** Bytes that `createInputs` asks for. */
export function inputBytes(config: ModelConfig, tokens: number, texts: number): number {
  return Object.values(inputWords(config, tokens, texts)).reduce((sum, count) => sum + align(4 * count), 0);
}

/**
 * @param place reserves bytes, which are zero
 * @param rows where the embedding's table lies in its file
 */
export function createInputs(
  executor: Executor,
  config: ModelConfig,
  size: { readonly tokens: number; readonly texts: number },
  place: (bytes: number) => Address,
  rows: TableRows | null = null,
): DecoderInputs {
  const rotary = rotaryInputs(config).map(({ names, rope, dim }) => ({
    names,
    half: dim / 2,
    fill: createRope({ rotaryDim: dim, rope }),
  }));
  const words = Object.entries(inputWords(config, size.tokens, size.texts));
  const addresses = new Map(words.map(([name, count]) => [name, place(4 * count)]));
  const put = (name: string, data: Int32Array | Float32Array) =>
    executor.write(addresses.get(name)!, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  const putIds = (ids: Int32Array) => {
    put("ids", ids);
    if (config.layerInputs) put("tableIds", ids);
    rows?.take(ids);
  };
  const reach = config.slidingWindow === null ? Infinity : config.slidingWindow - 1;
  const putStarts = (positions: Int32Array, starts: Int32Array) => {
    put("starts", starts);
    put(
      "windowStarts",
      positions.map((at, i) => Math.max(starts[i]!, at - reach)),
    );
  };
  const putPositions = (positions: Int32Array) => {
    const { positionTable: table } = config;
    // Padding behind the last row reads what is there.
    if (table)
      put(
        "positions",
        positions.map((at) => Math.min(table.first + at, table.rows - 1)),
      );
  };
  return {
    addresses,
    load(ids, position, tokens, length) {
      const padded = new Int32Array(tokens);
      padded.set(ids);
      putIds(padded);
      const positions = Int32Array.from({ length: tokens }, (_, i) => position + i);
      // A state must not have what fills up the program: a token that sees itself alone.
      const fill = (at: number, i: number) => (config.delta !== null && i >= ids.length ? at : 0);
      putStarts(positions, positions.map(fill));
      putPositions(positions);
      for (const { names, fill: table } of rotary) {
        const { cos, sin } = table(positions, undefined, length);
        put(names[0], cos);
        put(names[1], sin);
      }
      put("position", Int32Array.of(position));
      put("rows", Int32Array.of(ids.length - 1));
    },
    loadTogether(next) {
      const positions = Int32Array.from(next, ({ position }) => position);
      putIds(Int32Array.from(next, ({ id }) => id));
      putPositions(positions);
      putStarts(
        positions,
        Int32Array.from(next, ({ start }) => start),
      );
      for (const { names, half, fill } of rotary) {
        const [cos, sin] = [new Float32Array(next.length * half), new Float32Array(next.length * half)];
        // One by one: neighbours in the table are positions of different texts.
        positions.forEach((position, i) => {
          const row = fill(Int32Array.of(position));
          cos.set(row.cos, i * half);
          sin.set(row.sin, i * half);
        });
        put(names[0], cos);
        put(names[1], sin);
      }
      put("position", positions);
      put("rows", Int32Array.from(next.keys()));
    },
  };
}
