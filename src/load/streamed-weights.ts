import { type Address, align, type Executor } from "../runtime/executor.ts";
import type { TensorSource } from "../hf/weights/safetensors.ts";
import { matrixOf } from "../models/linear.ts";
import type { ParamInfo } from "../runtime/resident.ts";
import type { WeightStream, WeightWindow } from "../runtime/streaming/weight-window.ts";

/** Rows of tables that lie in their file. */
export interface TableRows {
  /** Reads the rows of some ids into memory, each once, and writes by token the number of its row there. */
  take(ids: Int32Array): void;
}

/** Weights that lie in their file while a model runs. */
export interface StreamedWeights {
  readonly window: WeightWindow;
  /** null: no table is read by rows. */
  readonly rows: TableRows | null;
  close(): void;
}

/** Names of parameters in files, their window, and bytes of a row of each that is read by rows. */
export interface Streaming {
  readonly streamed: ReadonlySet<string>;
  readonly rowBytes: ReadonlyMap<string, number>;
  readonly window: number;
}

/**
 * Reserves the window for what a stream reads, which ends with it.
 * @param tokens the most rows of a table at a time
 */
export function openStreamedWeights(
  executor: Executor,
  { streamed, rowBytes, window }: Streaming,
  tokens: number,
  openStream: () => WeightStream,
): StreamedWeights {
  const address = executor.reserve(align(window));
  const rows = new Map<string, Address>([...rowBytes].map(([name, bytes]) => [name, executor.reserve(align(bytes * tokens))]));
  const rowIds = rowBytes.size > 0 ? executor.reserve(4 * tokens) : 0;
  const stream = openStream();
  const take = (ids: Int32Array): void => {
    const order = new Map<number, number>();
    for (const id of ids) if (!order.has(id)) order.set(id, order.size);
    if (order.size > tokens) throw new Error(`there is room for ${tokens} rows, not ${order.size}`);
    for (const [name, bytes] of rowBytes) {
      const values = new Uint8Array(bytes * order.size);
      for (const [id, at] of order) stream.read(name, id * bytes, values.subarray(at * bytes, (at + 1) * bytes));
      executor.write(rows.get(name)!, values);
    }
    const numbers = ids.map((id) => order.get(id)!);
    executor.write(rowIds, new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength));
  };
  return {
    window: { streamed, rows, rowIds, address, bytes: window, stream },
    rows: rowBytes.size > 0 ? { take } : null,
    close: () => stream.close(),
  };
}

/** True for a parameter of a checkpoint's own files; others are made up, or come from an adapter's. */
export function isOnDisk({ tensors, files }: TensorSource, { name }: ParamInfo): boolean {
  const entry = tensors.get(name) ?? tensors.get(matrixOf(name));
  return entry !== undefined && files.some(({ path }) => path === entry.path);
}
