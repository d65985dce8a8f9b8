import { closeSync } from "node:fs";
import { join } from "node:path";
import { cacheFolder } from "../../base/files/cache-folder.ts";
import { changed, type OpenFile, openFile } from "../../base/files/open-file.ts";
import { examineWeights } from "../../hf/weights/examine.ts";
import type { TensorSource } from "../../hf/weights/safetensors.ts";
import type { ParamInfo } from "../../runtime/resident.ts";
import { openWeightCache, type WeightCache, type WeightCacheOptions } from "./cache.ts";
import { type CacheLayout, layoutOf } from "./layout.ts";
import type { WeightPlace } from "./reader.ts";
import { type StoredParam, type StoredTensor, tensorsOf } from "./tensors.ts";

export interface StoredWeightsOptions extends Partial<WeightCacheOptions> {
  /** False: what has to be converted is converted whenever it is read, and nothing is written (default: true). */
  readonly cache?: boolean | undefined;
}

/** Frozen weights on disk. Files and places are plain data, of which a thread makes its `WeightReader`. */
export interface StoredWeights {
  /** The files that places name by their position. `changed` tells whether one has changed since. */
  readonly files: readonly OpenFile[];
  /** The places by the parameters' names. */
  readonly places: ReadonlyMap<string, WeightPlace>;
  /** The file of what was converted; null where nothing is, or without a cache. */
  readonly cache: WeightCache | null;
  /** Closes the files, for all threads. */
  close(): void;
}

/**
 * Returns where the bytes of frozen weights lie on disk as an executor's memory has them: to the bit what `loadWeights` writes there. A tensor
 * that is stored so already is read from its own file; all others lie in a file of the user's cache folder, which is made once.
 * @param groups the base model's frozen parameters by segment, in their order, scales of quantised matrices among them; a parameter
 * of several segments may be named in each
 * @throws {UserError} missing tensor, wrong shape or dtype; files that changed since they were opened; see `openWeightCache`
 */
export async function storedWeights(
  source: TensorSource,
  groups: readonly (readonly ParamInfo[])[],
  options: StoredWeightsOptions = {},
): Promise<StoredWeights> {
  const { cache: isCached = true, folder = join(cacheFolder(), "weights") } = options;
  const opened = source.files.toSorted((a, b) => (a.path < b.path ? -1 : 1));
  const tensors = tensorsOf(
    source,
    groups,
    opened.map(({ path }) => path),
  );
  const files: OpenFile[] = [];
  const close = () => {
    for (const { fd } of files.splice(0)) closeSync(fd);
  };
  try {
    for (const file of opened) files.push(openAgain(file));
    // A new head is in no file.
    const inFiles = [...source.tensors].filter(([, { path }]) => opened.some((file) => file.path === path));
    const layout = isCached ? layoutOf(examineWeights({ tensors: new Map(inFiles) }), groups, tensors) : null;
    let cache: WeightCache | null = null;
    if (layout !== null) {
      const converted = tensors.filter(({ conversion }) => conversion !== null);
      cache = await openWeightCache({ layout, tensors: converted, files }, { ...options, folder });
      files.push(cache.file);
    }
    for (const change of files.map(changed)) if (change !== null) throw change;
    const places = new Map(tensors.flatMap((tensor) => placesOf(tensor, layout, opened.length)));
    return { files, places, cache, close };
  } catch (error) {
    close();
    throw error;
  }
}

/** Opens a file of the checkpoint once more: the checkpoint's own descriptors close with it. @throws {UserError} it is another one by now */
function openAgain(before: OpenFile): OpenFile {
  const file = openFile(before.path);
  const change = changed({ ...before, fd: file.fd });
  if (change === null) return file;
  closeSync(file.fd);
  throw change;
}

/** Returns the places of a tensor's parameters. @param cacheFile the cache file's position among the files */
function placesOf(tensor: StoredTensor, layout: CacheLayout | null, cacheFile: number): (readonly [string, WeightPlace])[] {
  const placeOf = ({ name, bytes }: StoredParam, part: "values" | "scales"): WeightPlace => {
    if (tensor.conversion === null) return { kind: "stored", bytes, file: tensor.file, offset: tensor.offset };
    if (layout === null) return { kind: "converted", bytes, tensor, part };
    return { kind: "stored", bytes, file: cacheFile, offset: layout.parts.get(name)!.offset };
  };
  const { values, scales } = tensor;
  return [[values.name, placeOf(values, "values")], ...(scales ? [[scales.name, placeOf(scales, "scales")] as const] : [])];
}
