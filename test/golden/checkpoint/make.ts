/**
 * Makes the checkpoints of this folder: a run of four steps on a tiny random model, saved after the second and the fourth.
 *
 *     bun test/golden/checkpoint/make.ts
 *
 * The files that are committed were written at commit 7ff70b8, whose checkpoints (version 3) hold the trained parameters
 * and AdamW's moments as three flat arrays. Run at a later commit, this script writes what that commit writes.
 */
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { remat, writeTinyModel } from "../../support/cli.ts";

/** Shape of the model; the rest is the tests' tiny model, drawn from seed 1. */
export const MODEL = { hidden_size: 16, intermediate_size: 24, head_dim: 4 };

/** Settings of the run, but for model, output and number of steps. Norms, which have no weight decay, are trained beside matrices. */
export const SETTINGS: readonly string[] = [
  "--data",
  join(import.meta.dir, "data.jsonl"),
  ...`--valid 0 --method full --last-layers 1 --sequence-length 32 --learning-rate 1e-2 --weight-decay 0.1 --schedule constant
    --warmup 0 --save-every 2 --keep 2 --no-sample --device wasm --matmul wasm --threads 1`.split(/\s+/),
];

export const STEPS = 4;

if (import.meta.main) {
  const folder = mkdtempSync(join(tmpdir(), "remat-golden-"));
  const model = writeTinyModel(join(folder, "model"), MODEL);
  const output = join(folder, "run");
  const { code, stderr } = await remat(["train", "--model", model, "--output", output, ...SETTINGS, "--steps", String(STEPS)]);
  if (code !== 0) throw new Error(stderr);
  rmSync(join(import.meta.dir, "checkpoints"), { recursive: true, force: true });
  cpSync(join(output, "checkpoints"), join(import.meta.dir, "checkpoints"), { recursive: true });
  rmSync(folder, { recursive: true });
}
