import { closeSync } from "node:fs";
import { DTYPE_BYTES, type FloatType } from "../../base/dtype.ts";
import { UserError } from "../../base/errors.ts";
import { readFully } from "../../base/files/files.ts";
import { type OpenFile, openFile } from "../../base/files/open-file.ts";
import { show } from "../../base/json.ts";
import { elements, type Shape } from "../../graph/types.ts";
import type { GgmlShare } from "../../hf/weights/ggml-part.ts";
import type { Slab } from "../../hf/weights/slab.ts";
import { STORED_NAMES, type TensorEntry, type TensorSource } from "../../hf/weights/safetensors.ts";
import { createPartReader, type TensorPart } from "../../hf/weights/tensor-part.ts";
import { parameterShapes } from "../../models/chain/parameters.ts";
import type { ModelConfig } from "../../models/config.ts";
import { familyOf } from "../../models/families/index.ts";
import { GGML_TYPES, type GgmlType } from "../blocks/types.ts";
import { type GgufPart, ggufParts } from "../names.ts";
import { type GgufFile, type GgufTensor, readGguf } from "./container.ts";

/** Tensors that say how positions are rotated, which the configuration says too. */
const ROTATION = /^rope_(freqs|factors_long|factors_short)\.weight$/;

/**
 * Opens a GGUF file (or all of a split model) as the weights of a model, under the names of its parameters: rows and columns in the model's order, matrices of
 * experts one by one, norms as the model has them. Numbers without blocks keep their type, MXFP4 is bf16, which has all of its numbers, and other blocks are f32.
 * @throws {UserError} a malformed file, tensors that are not those of the configuration
 */
export function openGguf(path: string, config: ModelConfig): TensorSource {
  const file = readGguf(path);
  const tensors = entriesOf(file, config);
  const files: OpenFile[] = [];
  const close = () => {
    for (const { fd } of files.splice(0)) closeSync(fd);
  };
  try {
    for (const part of file.files) files.push(openFile(part));
  } catch (error) {
    close();
    throw error;
  }
  const fill = (wanted: string, memory: Uint8Array, at: number): void => {
    const found = files.find((each) => each.path === wanted);
    if (!found) throw new Error(`${wanted} is closed`);
    readFully(found.fd, memory, at, wanted);
  };
  const parts = createPartReader();
  return {
    path: file.path,
    tensors,
    metadata: new Map(),
    files,
    read(entry, target, from) {
      if (from === undefined ? target.length !== entry.bytes : from + target.length > entry.bytes)
        throw new Error(`${entry.name}: the target holds ${target.length} bytes, the tensor has ${entry.bytes - (from ?? 0)}`);
      if (entry.part) parts.read(entry.part, (slab, memory, at) => fill(slab.path, memory, slab.offset + at), target, from ?? 0);
      else fill(entry.path, target, entry.offset + (from ?? 0));
    },
    close,
  };
}

/** A model's parameters by name, and the file's other tensors under their own. @throws {UserError} */
function entriesOf(file: GgufFile, config: ModelConfig): Map<string, TensorEntry> {
  const unread = new Set(file.tensors.keys());
  const entries = new Map<string, TensorEntry>();
  for (const [name, shape] of parameterShapes(config)) {
    const parts = ggufParts(name, config);
    const there = parts.filter((part) => file.tensors.has(part.name));
    // Whoever reads the parameter says that it is missing.
    if (there.length === 0) continue;
    const lacking = parts.find((part) => !file.tensors.has(part.name));
    // The matrix of the logits is in the file a second time in some families.
    if (lacking !== undefined && !isSecondHead(lacking, config))
      throw new UserError(
        `${file.path} holds tensor ${show(there[0]!.name)} without ${show(lacking.name)}; is it a whole model?`,
      );
    for (const part of there) unread.delete(part.name);
    const used = there.filter((part) => !isSecondHead(part, config) || there.length === 1);
    const tensors = used.map((part) => file.tensors.get(part.name)!);
    entries.set(name, entryOf(name, shape, used, tensors, config));
  }
  for (const name of unread) {
    if (ROTATION.test(name)) continue;
    const tensor = file.tensors.get(name)!;
    if (
      name.endsWith(".bias") &&
      file.tensors.has(name.replace(/bias$/, "weight")) &&
      !unread.has(name.replace(/bias$/, "weight"))
    )
      throw new UserError(
        `${tensor.path}: nothing reads tensor ${show(name)}, the bias of a module that models of type ${config.family} have without one here`,
      );
    entries.set(name, plainEntry(name, tensor.shape, tensor));
  }
  return entries;
}

/** Tells whether a tensor repeats the embedding as the matrix of the logits. */
function isSecondHead({ name }: GgufPart, config: ModelConfig): boolean {
  return familyOf(config).gguf?.hasOwnHead === true && config.tieWordEmbeddings && name === "output.weight";
}

/** The type that a tensor's numbers are read as. */
function readAs(type: GgmlType): FloatType {
  if (type === "f16" || type === "bf16") return type;
  return type === "mxfp4" ? "bf16" : "f32";
}

/** A tensor whose numbers follow each other as the model's do. */
function plainEntry(name: string, shape: Shape, { type, path, offset, bytes }: Omit<GgufTensor, "shape">): TensorEntry {
  const dtype = readAs(type);
  const count = elements(shape);
  const entry: TensorEntry = { name, stored: STORED_NAMES[dtype], dtype, shape, path, offset, bytes: count * DTYPE_BYTES[dtype] };
  if (GGML_TYPES[type].elements === 1) return entry;
  const shares = [{ type, columns: count, rowOrder: null, columnOrder: null }];
  const layout = { kind: "ggml", rows: 1, columns: count, as: dtype, shares, isTransposed: false, change: null } as const;
  return { ...entry, part: { layout, slabs: [{ path, offset, bytes }] } };
}

/** A parameter of one tensor, or of several that have its rows or columns. @throws {UserError} tensors of another shape */
function entryOf(
  name: string,
  shape: Shape,
  parts: readonly GgufPart[],
  tensors: readonly GgufTensor[],
  config: ModelConfig,
): TensorEntry {
  const [first] = tensors as [GgufTensor];
  const rows = shape[0] ?? 1;
  const columns = elements(shape) / rows;
  const shares = parts.map((part, i) => shareOf(part, tensors[i]!, shape, [rows, columns], config));
  const [part] = parts as [GgufPart];
  const [{ share, slab }] = shares as [Share];
  const isPlain = shares.length === 1 && share.rowOrder === null && share.columnOrder === null && !part.isTransposed;
  if (isPlain && part.value === null) return plainEntry(name, shape, { ...first, ...slab, name });
  checkCover(shares, [rows, columns], name, first);
  const [types, changed] = [new Set(shares.map((each) => readAs(each.share.type))), part.value !== null];
  const as = types.size === 1 && !changed ? readAs(first.type) : "f32";
  const layout: TensorPart["layout"] = {
    kind: "ggml",
    rows,
    columns,
    as,
    shares: shares.map(({ share: plain }) => plain),
    isTransposed: part.isTransposed,
    change: part.value,
  };
  const slabs = shares.map((each) => each.slab);
  const { path, offset } = slab;
  const bytes = rows * columns * DTYPE_BYTES[as];
  return { name, stored: STORED_NAMES[as], dtype: as, shape, path, offset, bytes, part: { layout, slabs } };
}

/** A tensor as a share of a parameter. */
interface Share {
  readonly share: GgmlShare;
  readonly rows: number;
  readonly slab: Slab;
}

/** What a tensor has of a parameter, and where. @throws {UserError} a tensor of another shape */
function shareOf(
  part: GgufPart,
  tensor: GgufTensor,
  parameter: Shape,
  [rows, columns]: readonly [number, number],
  config: ModelConfig,
): Share {
  const [height, width] = part.isTransposed ? [columns, rows] : [rows, columns];
  const rowOrder = part.rows?.(height) ?? null;
  const columnOrder = part.columns?.(width) ?? null;
  const [storedRows, storedColumns] = [rowOrder?.length ?? height, columnOrder?.length ?? width];
  const own = parameter.length < 2 ? [storedRows] : [storedRows, storedColumns];
  const experts = part.expert === null ? [] : [config.experts!.count];
  const expected = [...experts, ...own];
  const { path, shape, type } = tensor;
  // Dimensions of 1 are left out by some programs.
  const written = (dims: Shape) => dims.filter((dim) => dim !== 1).join();
  if (written(shape) !== written(expected))
    throw new UserError(
      `${path}: tensor ${show(tensor.name)} has shape [${shape.join(", ")}], expected [${expected.join(", ")}]; do its metadata belong to it?`,
    );
  const bytes = tensor.bytes / (experts[0] ?? 1);
  const slab = { path, offset: tensor.offset + (part.expert ?? 0) * bytes, bytes };
  if (part.isTransposed && (rowOrder !== null || columnOrder !== null))
    throw new Error(`${part.name} is transposed and in another order`);
  const isRowsOnly = rowOrder !== null || columnOrder !== null || part.isTransposed;
  if (isRowsOnly && storedColumns % GGML_TYPES[type].elements !== 0)
    throw new UserError(`${path}: tensor ${show(tensor.name)} is ${type.toUpperCase()}, whose blocks do not divide its rows`);
  return { share: { type, columns: storedColumns, rowOrder, columnOrder }, rows: storedRows, slab };
}

/** @throws {UserError} tensors that have not each row and column once */
function checkCover(
  shares: readonly Share[],
  [rows, columns]: readonly [number, number],
  name: string,
  { path }: GgufTensor,
): void {
  const stored = shares.reduce((sum, { rows: own, share }) => sum + own * share.columns, 0);
  if (stored === rows * columns) return;
  throw new UserError(`${path} holds ${stored} elements of ${name}, expected ${rows * columns}; do its metadata belong to it?`);
}
