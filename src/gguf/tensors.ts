import { UserError } from "../base/errors.ts";
import type { FloatType } from "../base/dtype.ts";
import { toFloat32 } from "../base/float16.ts";
import { elements, type Shape } from "../graph/types.ts";
import type { MergedParameter } from "../hf/peft/merge.ts";
import type { TensorSource } from "../hf/weights/safetensors.ts";
import { tensorPieces } from "../hf/weights/safetensors-write.ts";
import { parameterShapes } from "../models/chain/parameters.ts";
import { transpose } from "../models/adapters/low-rank.ts";
import type { ModelConfig } from "../models/config.ts";
import { modulesOf } from "../models/families/index.ts";
import { change } from "./blocks/change.ts";
import { encode, gathered, headType, typeFor } from "./encode.ts";
import { isPacked, packedRows } from "./mxfp4.ts";
import { architectureOf, type GgufPart, ggufParts } from "./names.ts";
import type { GgufTensor, GgufType } from "./write.ts";

/** A parameter's share of a tensor: all of it, or an expert's. */
interface Share {
  readonly parameter: MergedParameter;
  readonly part: GgufPart;
}

/**
 * The tensors of a model's file. Tensors of a checkpoint that the model does not read are left out; matrices in MXFP4 stay what they are.
 * @throws {UserError} a parameter that is not there, or that the format has no place for
 */
export function modelTensors(
  config: ModelConfig,
  parameters: readonly MergedParameter[],
  source: TensorSource,
  type: GgufType,
): GgufTensor[] {
  const { embedding, head } = modulesOf(config);
  const { path: from } = source;
  const logits = config.tieWordEmbeddings ? `${config.modulePrefix}${embedding}` : head;
  const known = new Set(parameterShapes(config).keys());
  const shares = new Map<string, Share[]>();
  for (const parameter of parameters.filter(({ name }) => known.delete(name))) {
    const parts = ggufParts(parameter.name, config);
    if (parts.length === 0 || !["f32", "f16", "bf16"].includes(parameter.dtype))
      throw new UserError(`${from}: tensor ${parameter.name} has no place in a GGUF ${architectureOf(config)} model`);
    for (const part of parts) {
      const all = shares.get(part.name) ?? [];
      all.push({ parameter, part });
      shares.set(part.name, all);
    }
  }
  const [missing] = known;
  if (missing !== undefined) throw new UserError(`${from} holds no tensor for ${missing}; it is not a whole model`);
  return Array.from(shares, ([name, all]) => {
    const isHead = all[0]!.parameter.name === `${logits}.weight`;
    return tensorOf(
      source,
      name,
      all.sort((a, b) => (a.part.expert ?? 0) - (b.part.expert ?? 0)),
      isHead ? headType(type) : type,
    );
  });
}

function tensorOf(source: TensorSource, name: string, shares: readonly Share[], wanted: GgufType): GgufTensor {
  const [first] = shares as [Share];
  const single = shapeOf(first);
  const shape = first.part.expert === null ? single : [shares.length, ...single];
  const packed = shares.map(({ parameter: { stored } }) => stored);
  if (packed.every(isPacked)) {
    return {
      name,
      type: "mxfp4",
      shape,
      *data() {
        for (const entry of packed) yield packedRows(source, entry);
      },
    };
  }
  const type = first.part.isFull ? "f32" : typeFor(wanted, shape);
  return {
    name,
    type,
    shape,
    *data() {
      for (const share of shares) for (const values of valuesOf(share)) yield encode(values, type, share.parameter.name);
    },
  };
}

/** A parameter as a matrix: a vector as a column, a filter [channels, 1, width] without its middle. */
function matrixOf(shape: Shape): [rows: number, columns: number] {
  const rows = shape[0] ?? 1;
  return [rows, elements(shape) / rows];
}

/** The shape that a share has in the file. */
function shapeOf({ parameter: { shape }, part }: Share): Shape {
  const { rows, columns, isTransposed } = part;
  const stored = matrixOf(shape);
  const [height, width] = isTransposed ? stored.toReversed() : stored;
  const count = rows?.(height!).length ?? height!;
  return shape.length < 2 ? [count] : [count, columns?.(width!).length ?? width!];
}

/** The values of a share, piece by piece; pieces have whole blocks of every type. */
function* valuesOf({ parameter, part }: Share): Iterable<Float32Array> {
  const { rows, columns, isTransposed, value } = part;
  const isInOrder = rows === null && columns === null && !isTransposed;
  for (const piece of isInOrder ? pieces(parameter) : [ordered(parameter, part)]) {
    if (value) change(piece, value);
    yield piece;
  }
}

function ordered(parameter: MergedParameter, { rows, columns, isTransposed }: GgufPart): Float32Array {
  const [height, width] = matrixOf(parameter.shape);
  const stored = joined(pieces(parameter), height * width);
  const values = isTransposed ? transpose(stored, height, width) : stored;
  const [outputs, inputs] = isTransposed ? [width, height] : [height, width];
  return gathered(values, inputs, rows?.(outputs) ?? null, columns?.(inputs) ?? null);
}

function* pieces(parameter: MergedParameter): Iterable<Float32Array> {
  for (const bytes of tensorPieces(parameter)) yield toFloat32(bytes, parameter.dtype as FloatType);
}

/** A piece is gone when the next one comes. */
function joined(all: Iterable<Float32Array>, count: number): Float32Array {
  const values = new Float32Array(count);
  let at = 0;
  for (const piece of all) {
    values.set(piece, at);
    at += piece.length;
  }
  return values;
}
