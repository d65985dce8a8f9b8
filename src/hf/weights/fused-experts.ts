/**
 * Experts whose matrices a file holds in one tensor for all of a block. The model knows each matrix by itself; here such a tensor is taken apart when a
 * checkpoint is opened, and put together when one is written.
 */
import { UserError } from "../../base/errors.ts";
import { DTYPE_BYTES, type FloatType } from "../../base/dtype.ts";
import { show } from "../../base/json.ts";
import { elements, type Shape } from "../../graph/types.ts";
import { EXPERT_NAMES } from "../../models/blocks/experts.ts";
import type { ModelConfig } from "../../models/config.ts";
import { familyOf } from "../../models/families/index.ts";
import type { TensorData } from "./safetensors-write.ts";
import type { TensorEntry } from "./safetensors.ts";
import { MXFP4_BLOCK, type PartLayout, scatterPart, type TensorPart } from "./tensor-part.ts";
import { tensorPieces } from "./safetensors-write.ts";

/** `gate_up_proj` or `down_proj` of all experts, or the blocks of MXFP4 of one of them. */
const FUSED = /^(.*\.experts)\.(gate_up_proj|down_proj)(_blocks)?$/;
const SCALES = /\.experts\.(gate_up_proj|down_proj)_scales$/;

/** Tells whether a tensor holds the scales of MXFP4, each an exponent with a bias of 127 (E8M0), of which 255 is no number. */
export const isMxfp4Scales = ({ name, dtype }: Pick<TensorEntry, "name" | "dtype">): boolean =>
  dtype === "u8" && SCALES.test(name);

/**
 * The tensors with each matrix of an expert as a tensor, within the one that the file holds.
 * @throws {UserError} a tensor of another shape than `config.json` says, blocks without scales
 */
export function withSingleExperts(tensors: ReadonlyMap<string, TensorEntry>, config: ModelConfig): Map<string, TensorEntry> {
  const single = new Map<string, TensorEntry>();
  for (const [name, entry] of tensors) {
    const [, list, projection, blocks] = FUSED.exec(name) ?? [];
    if (list === undefined || config.experts === null) {
      if (!SCALES.test(name)) single.set(name, entry);
      continue;
    }
    const isDown = projection === "down_proj";
    const parts = blocks
      ? packedParts(entry, tensors.get(name.replace(/_blocks$/, "_scales")), isDown, config)
      : plainParts(entry, isDown, config);
    for (const [part, value] of parts) single.set(`${list}.${part}`, value);
  }
  return single;
}

type Parts = [name: string, entry: TensorEntry][];

/** The matrices of an expert in a fused tensor: each with its name, its shape, and where it begins among the slab's rows of outputs. */
function matricesOf(config: ModelConfig, isDown: boolean, byTurns: boolean) {
  const { experts, hiddenSize } = config;
  const { width } = experts!;
  const { gate, up, down } = familyOf(config).experts ?? EXPERT_NAMES;
  if (isDown) return [{ name: down, shape: [hiddenSize, width] as const, first: 0, step: 1 }];
  const shape = [width, hiddenSize] as const;
  const [first, step] = byTurns ? [1, 2] : [width, 1];
  return [
    { name: gate, shape, first: 0, step },
    { name: up, shape, first, step },
  ];
}

/** @throws {UserError} */
function expectShape({ path, name, shape }: TensorEntry, expected: Shape): void {
  if (shape.join() === expected.join()) return;
  throw new UserError(
    `${path}: tensor ${show(name)} has shape [${shape.join(", ")}], expected [${expected.join(", ")}]; check that it belongs to this config.json`,
  );
}

function plainParts(fused: TensorEntry, isDown: boolean, config: ModelConfig): Parts {
  const { experts, hiddenSize } = config;
  const { count, width } = experts!;
  const isTransposed = familyOf(config).fusedExperts === "columns";
  const [outputs, inputs] = isDown ? [hiddenSize, width] : [2 * width, hiddenSize];
  expectShape(fused, [count, ...(isTransposed ? [inputs, outputs] : [outputs, inputs])]);
  const size = DTYPE_BYTES[(fused.dtype ?? "f32") as FloatType];
  const slab = outputs * inputs * size;
  return Array.from({ length: count }, (_, expert) =>
    matricesOf(config, isDown, isTransposed).map(({ name, shape, first, step }): Parts[number] => {
      const own = { name: `${fused.name}[${expert}].${name}`, shape, bytes: elements(shape) * size };
      const offset = fused.offset + expert * slab;
      if (!isTransposed)
        return [`${expert}.${name}.weight`, { ...fused, ...own, offset: offset + first * inputs * size, fused: [fused] }];
      const layout: PartLayout = {
        kind: "steps",
        columns: inputs,
        size: size as 2 | 4,
        first,
        rowStep: step,
        columnStep: outputs,
      };
      const part: TensorPart = { layout, slabs: [{ path: fused.path, offset, bytes: slab }] };
      return [`${expert}.${name}.weight`, { ...fused, ...own, offset, part, fused: [fused] }];
    }),
  ).flat();
}

function packedParts(blocks: TensorEntry, scales: TensorEntry | undefined, isDown: boolean, config: ModelConfig): Parts {
  const { experts, hiddenSize } = config;
  const { count, width } = experts!;
  if (!scales)
    throw new UserError(`${blocks.path}: tensor ${show(blocks.name)} has no scales beside it; is the checkpoint whole?`);
  const [outputs, inputs] = isDown ? [hiddenSize, width] : [2 * width, hiddenSize];
  if (inputs % MXFP4_BLOCK !== 0)
    throw new UserError(
      `${blocks.path}: tensor ${show(blocks.name)} is MXFP4 of ${inputs} numbers a row; expected a multiple of ${MXFP4_BLOCK}`,
    );
  const groups = inputs / MXFP4_BLOCK;
  expectShape(blocks, [count, outputs, groups, MXFP4_BLOCK / 2]);
  expectShape(scales, [count, outputs, groups]);
  for (const { path, name, dtype, stored } of [blocks, scales])
    if (dtype !== "u8") throw new UserError(`${path}: tensor ${show(name)} has dtype ${stored}, expected U8`);
  return Array.from({ length: count }, (_, expert) =>
    matricesOf(config, isDown, true).map(({ name, shape, first, step }): Parts[number] => {
      const slabs = [blocks, scales].map((tensor) => {
        const bytes = tensor.bytes / count;
        return { path: tensor.path, offset: tensor.offset + expert * bytes, bytes };
      });
      const part: TensorPart = { layout: { kind: "mxfp4", columns: inputs, first, rowStep: step }, slabs };
      const own = {
        name: `${blocks.name}[${expert}].${name}`,
        stored: "BF16",
        dtype: "bf16" as const,
        shape,
        bytes: 2 * elements(shape),
      };
      return [`${expert}.${name}.weight`, { ...blocks, ...own, offset: slabs[0]!.offset, part, fused: [blocks, scales] }];
    }),
  ).flat();
}

/** The tensors as files hold them, each once. */
export function storedTensors(tensors: ReadonlyMap<string, TensorEntry>): Map<string, TensorEntry> {
  const stored = new Map<string, TensorEntry>();
  for (const [name, entry] of tensors) {
    if (!entry.fused) stored.set(name, entry);
    else for (const whole of entry.fused) stored.set(whole.name, whole);
  }
  return stored;
}

/**
 * Puts the matrices of experts together that lie in one tensor of the base model: `made` has tensors by the modules' names, to be written under those
 * of the file.
 * @throws {UserError} matrices that MXFP4 has no place for
 */
export function fuseExperts(made: readonly TensorData[], base: ReadonlyMap<string, TensorEntry>): TensorData[] {
  const groups = new Map<TensorEntry, { readonly entry: TensorEntry; readonly data: TensorData }[]>();
  const others: TensorData[] = [];
  for (const data of made) {
    const entry = base.get(data.name);
    if (!entry?.fused) {
      others.push(entry ? { ...data, name: entry.name } : data);
      continue;
    }
    const [fused] = entry.fused as [TensorEntry];
    if (entry.fused.length > 1)
      throw new UserError(
        `${fused.path}: tensor ${show(fused.name)} is MXFP4, which cannot hold trained weights; keep an adapter beside it, or use a model in bf16`,
      );
    groups.set(fused, [...(groups.get(fused) ?? []), { entry, data }]);
  }
  const joined = Array.from(groups, ([{ name, shape, bytes }, parts]): TensorData => {
    const { dtype } = parts[0]!.data;
    const slabs = Map.groupBy(parts, ({ entry }) => (entry.part ? entry.part.slabs[0]!.offset : entry.offset));
    const pieces = function* () {
      for (const [, members] of [...slabs].sort(([a], [b]) => a - b)) {
        const { part } = members[0]!.entry;
        if (!part) {
          yield* tensorPieces(members[0]!.data);
          continue;
        }
        const slab = new Uint8Array(part.slabs[0]!.bytes);
        for (const { entry, data } of members)
          scatterPart(entry.part!.layout as PartLayout & { kind: "steps" }, joinedBytes(data), slab);
        yield slab;
      }
    };
    if (parts.reduce((sum, { entry }) => sum + entry.bytes, 0) !== bytes)
      throw new Error(`${name}: not all of its parts are there`);
    return { name, dtype, shape, data: { pieces } };
  });
  return [...others, ...joined];
}

function joinedBytes(data: TensorData): Uint8Array {
  return Buffer.concat([...tensorPieces(data)].map((piece) => piece.slice()));
}
