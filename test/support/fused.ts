import { cpSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openSafetensors, readBytes } from "../../src/hf/weights/safetensors.ts";
import { type TensorData, writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";

/** How a file has the matrices of all experts of a block: gates above ups; transposed, both by turns; or so as rows of MXFP4. */
export type FusedLayout = "rows" | "columns" | "mxfp4";

/** The elements of a matrix [rows, columns], as [columns, rows]. */
function transposed(bytes: Uint8Array, [rows, columns]: readonly [number, number], size: number): Uint8Array {
  const out = new Uint8Array(bytes.length);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      out.set(bytes.subarray(size * (row * columns + column), size * (row * columns + column + 1)), size * (column * rows + row));
  return out;
}

/** The rows of two matrices by turns. */
function byTurns(a: Uint8Array, b: Uint8Array, rows: number): Uint8Array {
  const bytes = a.length / rows;
  const parts = Array.from({ length: rows }, (_, row) => [a, b].map((matrix) => matrix.subarray(row * bytes, (row + 1) * bytes)));
  return Buffer.concat(parts.flat());
}

/** Copies a model folder whose file has each matrix of an expert as a tensor, with all of a block in one tensor; MXFP4's codes are made up. */
export function fuseFolder(from: string, to: string, layout: FusedLayout = "rows"): string {
  cpSync(from, to, { recursive: true });
  for (const name of readdirSync(to)) if (name.includes("safetensors")) rmSync(join(to, name));
  const source = openSafetensors(from);
  const others: TensorData[] = [];
  const lists = new Set<string>();
  for (const entry of source.tensors.values()) {
    const [list] = /^.*\.experts(?=\.\d+\.)/.exec(entry.name) ?? [];
    if (list !== undefined) lists.add(list);
    else others.push({ name: entry.name, dtype: entry.dtype!, shape: entry.shape, data: readBytes(source, entry) });
  }
  const { experts, hiddenSize } = loadConfig(from);
  const { count, width } = experts!;
  const fused = [...lists].flatMap((list): TensorData[] => {
    const dtype = source.tensors.get(`${list}.0.up_proj.weight`)!.dtype!;
    const size = dtype === "f32" ? 4 : 2;
    const read = (expert: number, matrix: string) => readBytes(source, source.tensors.get(`${list}.${expert}.${matrix}.weight`)!);
    return [
      { name: "gate_up_proj", rows: 2 * width, columns: hiddenSize, isDown: false },
      { name: "down_proj", rows: hiddenSize, columns: width, isDown: true },
    ].flatMap(({ name, rows, columns, isDown }): TensorData[] => {
      const slab = (expert: number): Uint8Array => {
        if (isDown) return read(expert, "down_proj");
        const [gate, up] = [read(expert, "gate_proj"), read(expert, "up_proj")];
        return layout === "rows" ? Buffer.concat([gate, up]) : byTurns(gate, up, width);
      };
      const slabs = Array.from({ length: count }, (_, expert) => slab(expert));
      if (layout === "rows")
        return [{ name: `${list}.${name}`, dtype, shape: [count, rows, columns], data: Buffer.concat(slabs) }];
      if (layout === "columns") {
        const data = Buffer.concat(slabs.map((each) => transposed(each, [rows, columns], size)));
        return [{ name: `${list}.${name}`, dtype, shape: [count, columns, rows], data }];
      }
      const groups = (rows * columns) / 32;
      const codes = Buffer.concat(slabs.map((each) => each.filter((_, i) => i % size === 0).subarray(0, 16 * groups)));
      const scales = new Uint8Array(count * groups).map((_, i) => 123 + (i % 3));
      return [
        { name: `${list}.${name}_blocks`, dtype: "u8", shape: [count, rows, columns / 32, 16], data: codes },
        { name: `${list}.${name}_scales`, dtype: "u8", shape: [count, rows, columns / 32], data: scales },
      ];
    });
  });
  source.close();
  writeSafetensors(join(to, "model.safetensors"), [...others, ...fused]);
  return to;
}
