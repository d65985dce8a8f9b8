/** Which tensor of a checkpoint becomes which parameters in memory, and how. */
import { expectTensor, type TensorSource } from "../../hf/weights/safetensors.ts";
import type { TensorPart } from "../../hf/weights/tensor-part.ts";
import { byteLength, elements } from "../../graph/types.ts";
import { isScales, scalesOf } from "../../models/linear.ts";
import type { ParamInfo } from "../../runtime/resident.ts";
import type { Conversion } from "./convert.ts";
import { conversionOf, shapeOf } from "../weights.ts";

/** A parameter as it lies in memory. */
export interface StoredParam {
  readonly name: string;
  readonly bytes: number;
}

/** A tensor of a checkpoint, and the one or two parameters that it becomes: plain data, which a thread gets by message. */
export interface StoredTensor {
  /** The tensor's file, by its position among the files. */
  readonly file: number;
  /** The tensor's place in the file, in bytes. */
  readonly offset: number;
  readonly elements: number;
  /** How its elements lie there where they do not follow each other, and the files of the slabs that hold them. */
  readonly part: { readonly of: TensorPart; readonly files: readonly number[] } | null;
  /** Null where the file has the bytes that memory holds. */
  readonly conversion: Conversion | null;
  /** The parameter of the numbers, or of the codes. */
  readonly values: StoredParam;
  /** The parameter of the codes' scales; null where there are none. */
  readonly scales: StoredParam | null;
}

/**
 * Returns the tensors of base-model parameters, each once, in the order of the parameters.
 * @param paths the checkpoint's files
 * @throws {UserError} missing tensor, wrong shape or dtype
 */
export function tensorsOf(
  source: TensorSource,
  groups: readonly (readonly ParamInfo[])[],
  paths: readonly string[],
): StoredTensor[] {
  const params = new Map(groups.flat().map((param) => [param.name, param]));
  const part = ({ name, type }: ParamInfo): StoredParam => ({ name, bytes: byteLength(type) });
  return [...params.values()]
    .filter((param) => !isScales(param))
    .map((param): StoredTensor => {
      const entry = expectTensor(source, param.name, shapeOf(param));
      const scales = params.get(scalesOf(param.name));
      return {
        file: paths.indexOf(entry.path),
        offset: entry.offset,
        part: entry.part ? { of: entry.part, files: entry.part.slabs.map(({ path }) => paths.indexOf(path)) } : null,
        elements: elements(entry.shape),
        conversion: conversionOf(entry, param),
        values: part(param),
        scales: scales ? part(scales) : null,
      };
    });
}
