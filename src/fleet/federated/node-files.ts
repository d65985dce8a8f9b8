import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { fileError, makeFolder, writeAtomic, writeTextAtomic } from "../../base/files/files.ts";
import { readJsonObject } from "../../base/json.ts";
import { parseWith } from "../../base/schema.ts";
import { reportSchema } from "./messages.ts";
import { sha256 } from "./updates/layout.ts";

/**
 * What a node keeps on disk, so that it may be ended at any instant and go on. `node.json` is written last and says which of the files beside it count; a file
 * is never written twice.
 */

/** A file by its name and content. */
const fileSchema = z.strictObject({ name: z.string(), sha256: z.string() });
export type KeptFile = z.output<typeof fileSchema>;

const stateSchema = z.strictObject({
  run: z.string(),
  node: z.string(),
  /** The round that the node's copy of the common model belongs to. */
  has: z.int().min(1),
  model: fileSchema,
  /** What codes have left out so far; null: nothing. */
  rest: fileSchema.nullable(),
  /** The optimizer's state; null: it has made no step. */
  optimizer: fileSchema.nullable(),
  position: z.strictObject({ draw: z.int().min(0), count: z.int().min(0) }),
  /** Steps of DP-SGD in everything that was sent, or is about to be. */
  spent: z.array(z.strictObject({ rate: z.number(), noise: z.number(), steps: z.int() })),
  /** The update of a round of which it is not known yet whether it counts, with what its codes left out. */
  pending: z.strictObject({ round: z.int(), update: fileSchema, rest: fileSchema, report: reportSchema }).nullable(),
});

export type NodeState = z.output<typeof stateSchema>;

const STATE = "node.json";
const KINDS = /^(model|rest|update|optimizer)-\d+\.(f32|bin|safetensors)$/;

export interface NodeFiles {
  /** null: the node has not begun. */
  readonly state: NodeState | null;
  /** The path of a new file. */
  fresh(kind: "model" | "rest" | "update" | "optimizer"): string;
  write(kind: "model" | "rest" | "update", bytes: Uint8Array): KeptFile;
  /** Describes a file that was written elsewhere. */
  keep(path: string): KeptFile;
  /** @throws {UserError} a damaged file */
  read(file: KeptFile): Uint8Array;
  readVector(file: KeptFile): Float32Array<ArrayBuffer>;
  path(file: KeptFile): string;
  /** From here on this is the state; files that it does not name are removed. */
  commit(state: NodeState): void;
}

const ENDINGS = { model: "f32", rest: "f32", update: "bin", optimizer: "safetensors" } as const;

/** @throws {UserError} a folder of another node or of another run */
export function openNodeFiles(folder: string, { run, node }: Pick<NodeState, "run" | "node">): NodeFiles {
  makeFolder(folder);
  const stateFile = join(folder, STATE);
  let state: NodeState | null = null;
  if (existsSync(stateFile)) {
    state = parseWith<NodeState>(stateSchema, readJsonObject(stateFile), stateFile);
    if (state.run !== run || state.node !== node)
      throw new UserError(
        `--output ${folder} is that of the node ${state.node} in the run ${state.run}; this is ${node} in the run ${run}: choose another folder`,
      );
  }
  const numbers = readdirSync(folder).map((name) => (KINDS.test(name) ? Number(/-(\d+)\./.exec(name)![1]) : 0));
  let last = Math.max(0, ...numbers);
  const fresh: NodeFiles["fresh"] = (kind) => join(folder, `${kind}-${++last}.${ENDINGS[kind]}`);
  const readBytes = (path: string): Uint8Array => {
    try {
      return readFileSync(path);
    } catch (error) {
      throw fileError("read", path, error);
    }
  };
  const keep = (path: string): KeptFile => ({
    name: path.slice(folder.length).replace(/^[/\\]+/, ""),
    sha256: sha256(readBytes(path)),
  });
  const read = ({ name, sha256: digest }: KeptFile): Uint8Array => {
    const bytes = readBytes(join(folder, name));
    if (sha256(bytes) !== digest)
      throw new UserError(
        `${join(folder, name)} does not have the checksum that ${STATE} states; remove the folder, and join anew`,
      );
    return bytes;
  };
  return {
    get state() {
      return state;
    },
    fresh,
    keep,
    read,
    write(kind, bytes) {
      const path = fresh(kind);
      writeAtomic(path, [bytes]);
      return keep(path);
    },
    readVector: (file) => new Float32Array(read(file).slice().buffer),
    path: ({ name }) => join(folder, name),
    commit(next) {
      writeTextAtomic(stateFile, `${JSON.stringify(next, null, 1)}\n`);
      state = next;
      const used = new Set(
        [next.model, next.rest, next.optimizer, next.pending?.update, next.pending?.rest].map((file) => file?.name),
      );
      for (const name of readdirSync(folder))
        if (KINDS.test(name) && !used.has(name)) rmSync(join(folder, name), { force: true });
    },
  };
}
