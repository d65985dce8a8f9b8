import { join } from "node:path";
import type { Graph } from "../graph/types.ts";
import { type Segment, type SegmentModel, programsOf } from "../graph/segment.ts";
import { makeFolder, writeAtomic, writeTextAtomic } from "../base/files/files.ts";
import { writeModel } from "./write.ts";

/** Which files and parameters a segment of the chain uses; an entry of `segments.json`. */
export interface SegmentEntry {
  /** Name in the model: `model.layers.3`. */
  readonly name: string;
  /** Its segment model; segments of one model share its files. */
  readonly model: string;
  /** Program (`forward`, `forward-taped`, `backward`, `forward-backward`) -> file name. */
  readonly files: Readonly<Record<string, string>>;
  /** Graph input -> parameter name in the checkpoint or adapter. */
  readonly params: Readonly<Record<string, string>>;
  /** Graph input, or `remat.carries` of an output -> name of a value that crosses segments beside the boundary. */
  readonly carried?: Readonly<Record<string, string>>;
}

const NOTES: Readonly<Record<string, string>> = {
  forward: "Forward pass: only the boundary (or the loss) comes out.",
  "forward-taped": "Forward pass that also writes the tape: the residuals that the backward pass reads.",
  backward: "Backward pass: the tape, the parameters and the gradient of the output in; running gradients out.",
  "forward-backward": "Forward and backward pass in one, without a tape.",
};

export const fileNameOf = (model: SegmentModel, program: string): string => `${model.id}.${program}.onnx`;

/** Says whether a program is written: all are by default. */
type Wanted = (graph: Graph) => boolean;

export interface WriteOptions {
  readonly wanted?: Wanted;
  /** Called after each file. Making one leaves some fifty times its size of garbage. */
  readonly afterFile?: () => void;
}

/**
 * Writes the segment models of a chain into `folder`: one ONNX file per program of each distinct model, and
 * `segments.json`, which lists the segments in order. Each file appears whole or not at all, the list last.
 * @throws {UserError} when the folder cannot be written
 */
export function writeSegmentModels(
  folder: string,
  segments: readonly Segment[],
  { wanted = () => true, afterFile = () => {} }: WriteOptions = {},
): void {
  makeFolder(folder);
  for (const model of new Set(segments.map((segment) => segment.model))) {
    const users = segments.filter((segment) => segment.model === model).map((segment) => segment.name);
    const span = users.length > 1 ? `${users.length} segments, ${users[0]} to ${users.at(-1)}` : users[0];
    for (const [program, graph] of programsOf(model).filter(([, graph]) => wanted(graph))) {
      const note = `${NOTES[program.replace(/-\d+$/, "")]}${variantText(program)} Segment model ${model.id} by Remat, for ${span}; see segments.json.`;
      writeAtomic(join(folder, fileNameOf(model, program)), [writeModel(graph, note)]);
      afterFile();
    }
  }
  writeTextAtomic(
    join(folder, "segments.json"),
    `${JSON.stringify({ segments: segments.map((segment) => entryOf(segment, wanted)) }, null, 2)}\n`,
  );
}

/** Programs of tape variants have their number behind the name. */
function variantText(program: string): string {
  const variant = /-(\d+)$/.exec(program)?.[1];
  return variant === undefined ? "" : ` Variant ${variant}: a smaller tape, of which the backward computes the rest again.`;
}

function entryOf({ name, model, params, carried }: Segment, wanted: Wanted): SegmentEntry {
  const programs = programsOf(model).filter(([, graph]) => wanted(graph));
  const files = programs.map(([program]) => [program, fileNameOf(model, program)] as const);
  return {
    name,
    model: model.id,
    files: Object.fromEntries(files),
    params: Object.fromEntries(params),
    ...(carried && carried.size > 0 && { carried: Object.fromEntries(carried) }),
  };
}
