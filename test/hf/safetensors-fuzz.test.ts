import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { openSafetensors, readBytes } from "../../src/hf/weights/safetensors.ts";
import { writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import type { Random } from "../../src/base/random.ts";
import { fuzz, INPUTS, mutateBytes, mutateJson } from "../support/fuzz.ts";
import { temporaryFolder } from "./temp.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const model = join(folder, "model");
mkdirSync(model);
const tensors = [
  { name: "a", dtype: "f32", shape: [2, 3], data: new Float32Array(6) },
  { name: "b", dtype: "bf16", shape: [4], data: new Uint16Array(4) },
  { name: "c", dtype: "i64", shape: [], data: new BigInt64Array(1) },
] as const;
writeSafetensors(join(folder, "outside.safetensors"), tensors);
writeSafetensors(join(model, "shard.safetensors"), tensors);
const seed = readFileSync(join(model, "shard.safetensors"));
const headerLength = Number(seed.readBigUInt64LE(0));
const header = seed.subarray(8, 8 + headerLength).toString();
const data = seed.subarray(8 + headerLength);
const index = JSON.stringify({
  metadata: { total_size: 40 },
  weight_map: { a: "shard.safetensors", b: "shard.safetensors", c: "../outside.safetensors" },
}).replace("../outside", "shard");

/** Bytes, header and index are mutated in turn; most headers get the length that they have. */
function input(random: Random): { readonly path: string; readonly content: Uint8Array | string } {
  const kind = random.below(3);
  if (kind === 0) return { path: join(folder, "bytes.safetensors"), content: mutateBytes(random, seed) };
  if (kind === 1) {
    const hostile = mutateJson(random, index).replaceAll("x", () => (random.below(9) === 0 ? "../outside.safetensors" : "x"));
    return { path: join(model, "model.safetensors.index.json"), content: hostile };
  }
  const json = new TextEncoder().encode(mutateJson(random, header));
  const length = Buffer.alloc(8);
  const stated = random.below(8) > 0 ? BigInt(json.length) : [0n, 1n, 99_999_999n, 2n ** 63n, 2n ** 64n - 1n][random.below(5)]!;
  length.writeBigUInt64LE(stated);
  return { path: join(folder, "header.safetensors"), content: Buffer.concat([length, json, data]) };
}

test(`${INPUTS} mutated files, headers and indices: tensors inside their file, or a UserError`, async () => {
  const counts = await fuzz("safetensors", input, ({ path, content }) => {
    writeFileSync(path, content);
    const source = openSafetensors(path);
    try {
      for (const entry of source.tensors.values()) {
        if (dirname(entry.path) !== dirname(path)) throw new Error(`${entry.path} is outside the folder`);
        readBytes(source, entry);
      }
    } finally {
      source.close();
    }
  });
  expect(Math.min(counts.read, counts.refused)).toBeGreaterThan(0.02 * INPUTS);
});
