import { existsSync } from "node:fs";
import { join } from "node:path";
import type { FileIo } from "../../base/files/files.ts";
import type { DenseLayer } from "../../models/config.ts";
import { openSafetensors, type TensorSource } from "./safetensors.ts";
import { type TensorData, writeSafetensors } from "./safetensors-write.ts";

/** Where sentence-transformers has the weights of a layer behind the pooling. */
const FILE = "model.safetensors";

/** A model's weights with those of the layers behind its pooling, which have files of their own. @throws {UserError} a layer without weights */
export function withDense(source: TensorSource, folder: string, dense: readonly DenseLayer[]): TensorSource {
  if (dense.length === 0) return source;
  const opened: TensorSource[] = [];
  const tensors = new Map(source.tensors);
  const owners = new Map<string, TensorSource>();
  const close = () => [source, ...opened].forEach((each) => each.close());
  try {
    for (const { module } of dense) {
      const own = openSafetensors(join(folder, module, FILE));
      opened.push(own);
      for (const [stored, entry] of own.tensors) {
        const name = `${module}.${stored}`;
        tensors.set(name, { ...entry, name });
        owners.set(entry.path, own);
      }
    }
  } catch (error) {
    close();
    throw error;
  }
  return {
    ...source,
    tensors,
    files: [source, ...opened].flatMap(({ files }) => files),
    read: (entry, target, from) => (owners.get(entry.path) ?? source).read(entry, target, from),
    close,
  };
}

/** Tells whether a parameter is one of a layer behind the pooling. */
export function isDense(name: string, dense: readonly DenseLayer[]): boolean {
  return dense.some(({ module }) => name.startsWith(`${module}.`));
}

/** Writes the weights of such layers, which have a folder each, of tensors with the model's names; returns the files' paths. @throws {UserError} */
export function writeDense(folder: string, dense: readonly DenseLayer[], tensors: readonly TensorData[], io?: FileIo): string[] {
  return dense.map(({ module }) => {
    const own = tensors.flatMap((tensor) =>
      tensor.name.startsWith(`${module}.`) ? [{ ...tensor, name: tensor.name.slice(module.length + 1) }] : [],
    );
    writeSafetensors(join(folder, module, FILE), own, { format: "pt" }, io);
    return `${module}/${FILE}`;
  });
}

/** Returns the files of such layers in a folder, as paths within it. */
export function denseFiles(folder: string, dense: readonly Pick<DenseLayer, "module">[]): string[] {
  return dense.map(({ module }) => `${module}/${FILE}`).filter((path) => existsSync(join(folder, path)));
}
