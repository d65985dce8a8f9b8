import { UserError } from "../../base/errors.ts";
import { elements } from "../../graph/types.ts";
import { openSafetensors, readBytes, readFloat32, type TensorSource } from "../../hf/weights/safetensors.ts";
import type { ModelConfig } from "../../models/config.ts";
import { checkContext, isStretched } from "../../models/context.ts";
import type { MicroBatch, TokenBatch } from "../../data/samples/batch.ts";

/** A micro-batch as a file has it. */
export type StepBatch = TokenBatch & Pick<MicroBatch, "labelled" | "weight">;

/** The tensors of a batch file. */
const TENSORS: readonly string[] = ["input_ids", "labels", "weights", "attention_mask", "position_ids", "token_type_ids"];

/**
 * Reads a batch file: int64 [sequences, length] tensors
 * - `input_ids`, `labels` (-100 = masked; as in Transformers `labels[t]` belongs to `input_ids[t]`, and position t - 1
 *   predicts it, in an encoder position t itself),
 * - `weights` (optional, float32; how much each label counts: the loss is sum w nll / sum w),
 * - `attention_mask` (optional; 1 for tokens, then 0 for padding on the right),
 * - `position_ids` (optional; a 0 starts a new example in the row: packing; within an example each is one more than the last),
 * - `token_type_ids` (optional, of an encoder that has types: which of two texts a token belongs to).
 * Nothing in the file is passed over.
 * @throws {UserError} missing or unknown tensors, wrong dtypes or shapes, values of mask, labels and positions that would not count, ids outside the vocabulary, no target at all, an example longer than
 * a context that dynamic rotary positions would stretch
 */
export function readStepBatch(path: string, config: ModelConfig): StepBatch {
  const source = openSafetensors(path);
  try {
    const unknown = [...source.tensors.keys()].find((name) => !TENSORS.includes(name));
    if (unknown !== undefined)
      throw new UserError(`${path}: tensor ${JSON.stringify(unknown)} would not count; a batch has ${TENSORS.join(", ")}`);
    const shape = source.tensors.get("input_ids")?.shape;
    if (shape?.length !== 2) throw new UserError(`${path}: expected a tensor "input_ids" of shape [sequences, length], int64`);
    const [sequences, length] = shape as [number, number];
    const ids = read(source, "input_ids", shape)!;
    const targets = read(source, "labels", shape);
    if (!targets) throw new UserError(`${path} holds no tensor "labels" (int64 [${shape.join(", ")}])`);
    const mask = read(source, "attention_mask", shape);
    const positions = read(source, "position_ids", shape);
    const types = read(source, "token_type_ids", shape);
    checkTypes(path, types, config);
    const given = source.tensors.has("weights") ? readFloat32(source, "weights", shape) : null;
    if (given?.some((weight) => !(weight >= 0 && weight < Infinity))) {
      throw new UserError(`${path}: tensor "weights" must hold finite numbers from 0 on`);
    }
    checkIds(path, "input_ids", ids, config.vocabSize, false);
    checkIds(path, "labels", targets, config.vocabSize, true);

    const batch = {
      ids,
      labels: new Int32Array(ids.length).fill(-100),
      starts: new Int32Array(ids.length),
      positions: new Int32Array(ids.length),
      weights: given && new Float32Array(ids.length),
      ...(types && { types }),
    };
    // The place that predicts a label, before its own.
    const before = config.encoder ? 0 : 1;
    let labelled = 0;
    let weight = 0;
    for (let row = 0; row < sequences; row++) {
      let start = row * length;
      for (let t = row * length; t < (row + 1) * length; t++) {
        const place = `[${row}, ${t - row * length}]`;
        const padding = mask !== null && mask[t] === 0;
        if (mask !== null && mask[t] !== 0 && mask[t] !== 1)
          throw new UserError(`${path}: attention_mask${place} is ${mask[t]}; expected 1 for a token, 0 for padding`);
        if (padding && targets[t] !== -100)
          throw new UserError(
            `${path}: labels${place} is ${targets[t]} at a place of padding, where no label counts; expected -100`,
          );
        if (mask !== null && t > row * length && mask[t]! > mask[t - 1]!)
          throw new UserError(`${path}: attention_mask of row ${row} is not right padding`);
        if (padding || (positions !== null && positions[t] === 0)) start = t;
        if (positions !== null && !padding && positions[t] !== t - start) {
          throw new UserError(
            `${path}: position_ids${place} is ${positions[t]}; expected ${t - start}, one more than before it, or 0 where another example begins`,
          );
        }
        batch.starts[t] = start;
        batch.positions[t] = t - start;
        // Within one example.
        if (t >= start + before && !padding && targets[t] !== -100) {
          batch.labels[t - before] = targets[t]!;
          if (batch.weights) batch.weights[t - before] = given![t]!;
          labelled++;
          weight += given?.[t] ?? 1;
        }
      }
    }
    // Beyond the context of others, angles go on; a table of positions ends.
    if (config.encoder || isStretched(config))
      checkContext(config, 1 + batch.positions.reduce((most, position) => Math.max(most, position), 0));
    if (labelled === 0)
      throw new UserError(`${path}: no position has a target: every label is -100 or the first of its sequence`);
    if (weight === 0) throw new UserError(`${path}: all targets have weight 0`);
    return { ...batch, labelled, weight };
  } finally {
    source.close();
  }
}

/** @throws {UserError} types that a model does not have */
function checkTypes(path: string, types: Int32Array | null, { encoder }: ModelConfig): void {
  if (types === null) return;
  const rows = encoder?.typeRows ?? 0;
  if (rows === 0) throw new UserError(`${path}: tensor "token_type_ids" would not count; the model has no types`);
  const at = types.findIndex((type) => !(type >= 0 && type < rows));
  if (at >= 0) throw new UserError(`${path}: token_type_ids[${at}] is ${types[at]}; expected a type from 0 to ${rows - 1}`);
}

function read(source: TensorSource, name: string, shape: readonly number[]): Int32Array | null {
  const entry = source.tensors.get(name);
  if (!entry) return null;
  if (
    entry.dtype !== "i64" ||
    elements(entry.shape) !== elements(shape) ||
    entry.shape.length !== 2 ||
    entry.shape[0] !== shape[0]
  ) {
    throw new UserError(
      `${source.path}: tensor "${name}" is ${entry.stored} [${entry.shape.join(", ")}]; expected int64 [${shape.join(", ")}]`,
    );
  }
  const values = new BigInt64Array(readBytes(source, entry).buffer);
  return Int32Array.from(values, Number);
}

function checkIds(path: string, name: string, ids: Int32Array, vocabulary: number, masked: boolean): void {
  const at = ids.findIndex((id) => !(id >= 0 && id < vocabulary) && !(masked && id === -100));
  if (at >= 0)
    throw new UserError(
      `${path}: ${name}[${at}] is ${ids[at]}; expected a token id from 0 to ${vocabulary - 1}${masked ? ", or -100" : ""}`,
    );
}
