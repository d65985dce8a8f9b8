import * as fs from "node:fs";
import { openFile } from "../../src/base/files/open-file.ts";
import { byteLength } from "../../src/graph/types.ts";
import type { StoredWeights } from "../../src/load/stored/stored-weights.ts";
import type { WeightPlace } from "../../src/load/stored/reader.ts";
import { isScales } from "../../src/models/linear.ts";
import type { ParamInfo } from "../../src/runtime/resident.ts";
import { createRandom } from "../../src/base/random.ts";
import { fromFloat32 } from "../../src/base/float16.ts";

/** Bytes that are written at a time. */
const PIECE = 2 ** 22;

/**
 * Writes parameters as memory wants them, random, into one file: there may be no room for a checkpoint that they could be made of.
 * Returns where they lie.
 */
export function writeStored(path: string, params: readonly ParamInfo[]): StoredWeights {
  const random = createRandom(1, "large");
  const values = Float32Array.from({ length: PIECE / 4 }, () => 0.02 * random.normal());
  const pieces: Readonly<Record<string, Uint8Array>> = {
    f32: new Uint8Array(values.buffer),
    bf16: fromFloat32(
      Float32Array.from({ length: PIECE / 2 }, (_, i) => values[i % values.length]!),
      "bf16",
    ),
    codes: Uint8Array.from({ length: PIECE }, () => random.below(256)),
    scales: new Uint8Array(new Float32Array(PIECE / 4).fill(0.02).buffer),
  };
  const places = new Map<string, WeightPlace>();
  const fd = fs.openSync(path, "w");
  let offset = 0;
  for (const param of params) {
    const bytes = byteLength(param.type);
    const { dtype } = param.type;
    const piece = pieces[isScales(param) ? "scales" : dtype === "f32" || dtype === "bf16" ? dtype : "codes"]!;
    for (let at = 0; at < bytes; at += PIECE) fs.writeSync(fd, piece, 0, Math.min(PIECE, bytes - at), offset + at);
    places.set(param.name, { kind: "stored", bytes, file: 0, offset });
    offset += Math.ceil(bytes / 64) * 64;
  }
  fs.closeSync(fd);
  const file = openFile(path);
  return { files: [file], places, cache: null, close: () => fs.closeSync(file.fd) };
}
