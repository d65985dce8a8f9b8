import { byteLength } from "../../graph/types.ts";
import { areFinite } from "../../hf/weights/examine.ts";
import { PIECE, readPieces } from "../../runtime/executor.ts";
import type { Engine } from "./engine.ts";

/** The name of the first trained parameter that holds a value that is infinite or no number; null: all values are finite. */
export function notFinite({ executor, resident }: Pick<Engine, "executor" | "resident">): string | null {
  const buffer = new Uint8Array(PIECE);
  for (const { name, type, trainable } of resident.params) {
    if (!trainable) continue;
    for (const piece of readPieces(executor, resident.param.get(name)!, byteLength(type), buffer))
      if (!areFinite(piece, "f32")) return name;
  }
  return null;
}
