import { byteLength } from "../../graph/types.ts";
import type { Address } from "../../runtime/executor.ts";
import { settleGradients } from "../../runtime/streaming/gradient-window.ts";
import type { Engine } from "../step/engine.ts";

/** All that is trained, and its gradients, as one vector of f32: one tensor behind the other, in the order of their names. */
export interface TrainedVector {
  /** Elements. */
  readonly size: number;
  /** Copies out the parameters, as bytes. */
  parameters(): Uint8Array<ArrayBuffer>;
  setParameters(values: Uint8Array): void;
  /** Copies out what gradients have been added up to since they were zero. */
  gradients(): Float32Array<ArrayBuffer>;
  setGradients(values: Float32Array<ArrayBuffer>): void;
}

type Trained = Pick<Engine, "executor" | "resident" | "gradients">;

/** An optimizer may lay the same parameters out in another order than an engine without one; names have one order. */
export function trainedVector({ executor, resident, gradients: window }: Trained): TrainedVector {
  const params = resident.params
    .filter(({ trainable }) => trainable)
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .map(({ name, type }) => ({ name, bytes: byteLength(type) }));
  const bytesOf = new Map(params.map(({ name, bytes }) => [name, bytes]));
  const total = params.reduce((sum, { bytes }) => sum + bytes, 0);
  const copyOut = (places: ReadonlyMap<string, Address>) => {
    const values = new Uint8Array(total);
    let at = 0;
    for (const { name, bytes } of params) {
      executor.read(places.get(name)!, bytes, values.subarray(at, at + bytes));
      at += bytes;
    }
    return values;
  };
  const copyIn = (places: ReadonlyMap<string, Address>, values: Uint8Array) => {
    if (values.byteLength !== total) throw new Error(`${values.byteLength} bytes for ${total} bytes that are trained`);
    let at = 0;
    for (const { name, bytes } of params) {
      executor.write(places.get(name)!, values.subarray(at, at + bytes));
      at += bytes;
    }
  };
  const settle = () => window && settleGradients(window, (name) => bytesOf.get(name)!);
  return {
    size: total / 4,
    parameters: () => copyOut(resident.param),
    setParameters: (values) => copyIn(resident.param, values),
    gradients() {
      settle();
      return new Float32Array(copyOut(resident.gradient).buffer);
    },
    setGradients(values) {
      settle();
      copyIn(resident.gradient, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    },
  };
}
