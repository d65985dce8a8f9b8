import { byteLength } from "../../graph/types.ts";
import type { TensorData } from "../../hf/weights/safetensors-write.ts";
import { isTransposed } from "../../models/adapters/index.ts";
import { transpose } from "../../models/adapters/low-rank.ts";
import { PIECE, readPieces } from "../../runtime/executor.ts";
import type { StepBatch } from "./step-batch.ts";
import type { Engine } from "./engine.ts";
import { FIRST_LOSS_SCALE, type LossScale, nextLossScale } from "./loss-scale.ts";

/** Describes what one batch gives. */
export interface StepGradients {
  /** Mean cross entropy of the labelled tokens, by their weights. */
  readonly loss: number;
  /** The factor of the gradients on their way through the model, by which they are divided where they are read: 1 but in f16. */
  readonly lossScale: number;
  /** The gradients of all trainable parameters, f32, read from the executor piece by piece. */
  readonly gradients: readonly TensorData[];
}

/**
 * Runs one batch forward and backward without an update. In f16 the loss is scaled as in training: from 65536 down until all
 * gradients are finite. Powers of two are taken out again without rounding.
 */
export function stepGradients(engine: Engine, batch: StepBatch, seed: number): StepGradients {
  const trainable = engine.resident.params.filter((param) => param.trainable);
  const run = () => {
    engine.zeroGradients();
    return engine.forwardBackward(batch, 1 / batch.weight, seed, 0);
  };
  const piece = new Uint8Array(PIECE);
  const values = function* (name: string, bytes: number): Iterable<Float32Array<ArrayBuffer>> {
    for (const { buffer, byteOffset, length } of readPieces(engine.executor, engine.resident.gradient.get(name)!, bytes, piece))
      yield new Float32Array(buffer as ArrayBuffer, byteOffset, length / 4);
  };
  const areFinite = () =>
    trainable.every(({ name, type }) => {
      for (const part of values(name, byteLength(type))) if (!part.every(Number.isFinite)) return false;
      return true;
    });

  let scaling: LossScale | null = engine.compute === "f16" ? FIRST_LOSS_SCALE : null;
  let loss = 0;
  for (;;) {
    if (scaling) engine.scaleGradients(scaling.scale);
    loss = run();
    if (!scaling || areFinite()) break;
    const next = nextLossScale(scaling, false);
    if (!next) break;
    scaling = next;
  }
  const lossScale = scaling?.scale ?? 1;
  const unscaled = function* (name: string, bytes: number): Iterable<Uint8Array> {
    for (const part of values(name, bytes)) {
      if (lossScale !== 1) for (let i = 0; i < part.length; i++) part[i]! /= lossScale;
      yield new Uint8Array(part.buffer, part.byteOffset, part.byteLength);
    }
  };
  const gradients = trainable.map(({ name, type }): TensorData => {
    const pieces = () => unscaled(name, byteLength(type));
    if (!isTransposed(name)) return { name, dtype: "f32", shape: type.shape, data: { pieces } };
    const [rows, columns] = type.shape as [number, number];
    const values = () => new Float32Array(Uint8Array.from(Buffer.concat([...pieces()].map((piece) => piece.slice()))).buffer);
    return { name, dtype: "f32", shape: [columns, rows], data: () => transpose(values(), rows, columns) };
  });
  return { loss, lossScale, gradients };
}
