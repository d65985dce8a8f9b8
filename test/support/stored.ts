import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { randomCheckpoint } from "../../bench/shapes.ts";
import type { FloatType } from "../../src/base/dtype.ts";
import { openSafetensors, readBytes, type TensorSource } from "../../src/hf/weights/safetensors.ts";
import { writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import type { ModelConfig } from "../../src/models/config.ts";

const ends: (() => void)[] = [];

/** To be called after all tests of a file. */
export function removeStored(): void {
  for (const end of ends.splice(0)) end();
}

/** A random checkpoint in a file of its own. */
export function storedCheckpoint(config: ModelConfig, dtype: FloatType): TensorSource {
  const folder = mkdtempSync(join(tmpdir(), "remat-stored-"));
  const random = randomCheckpoint(config, dtype);
  const path = join(folder, "model.safetensors");
  writeSafetensors(
    path,
    [...random.tensors.values()].map((entry) => {
      const bytes = readBytes(random, entry);
      const data = dtype === "f32" ? new Float32Array(bytes.buffer) : new Uint16Array(bytes.buffer);
      return { name: entry.name, dtype, shape: entry.shape, data };
    }),
  );
  const source = openSafetensors(folder);
  ends.push(() => {
    source.close();
    rmSync(folder, { recursive: true });
  });
  return source;
}
