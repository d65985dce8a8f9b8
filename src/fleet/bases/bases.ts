import { existsSync } from "node:fs";
import { join } from "node:path";
import type { KV } from "@nats-io/kv";
import type { NatsConnection } from "@nats-io/transport-node";
import { UserError } from "../../base/errors.ts";
import { makeFolder } from "../../base/files/files.ts";
import { show } from "../../base/json.ts";
import type { Member } from "../members.ts";
import { modelId } from "../objects.ts";
import { type BaseModel, keysOf, persistently, readEntry } from "../records.ts";
import type { Meter, Passage } from "../traffic.ts";
import { fetchFile } from "./fetch-file.ts";
import { serveBases } from "./serve-bases.ts";

/** The base models of a node. */
export interface Bases {
  /** Folders by the base models' ids. */
  readonly folders: ReadonlyMap<string, string>;
  /**
   * Returns the folder of a base model, which is fetched from a member that has it where it is missing.
   * @param asker a process that has it and is no member
   * @throws {UserError} files that are not what their hashes say
   * @throws {BaseAway}
   */
  folderOf(base: BaseModel, way: Passage, asker?: string): Promise<string>;
  end(): void;
}

export interface BasesOptions {
  readonly nats: NatsConnection;
  readonly nodes: KV;
  readonly name: string;
  readonly home: string;
  /** What is here already. */
  readonly folders: Map<string, string>;
  readonly meter: Meter;
  /** Told when another base model is there. */
  onBase(): void;
}

/** Gives the base models that are here to others, and fetches those that are not. */
export function openBases({ nats, nodes, name, home, folders, meter, onBase }: BasesOptions): Bases {
  const end = serveBases(nats, name, folders, (bytes) => meter.count("bases", "sent", bytes));
  /** Two jobs that need the same do not fetch it at the same time. */
  const turns = new Map<string, Promise<unknown>>();
  const peersOf = async (id: string, asker: string | undefined): Promise<string[]> => {
    const peers = asker === undefined ? [] : [asker];
    for (const key of await keysOf(nodes)) {
      const member = key === name ? null : (await readEntry<Member>(nodes, key))?.value;
      if (member?.bases.includes(id) === true) peers.push(key);
    }
    return peers;
  };
  const fetchBase = async (base: BaseModel, way: Passage, asker: string | undefined): Promise<string> => {
    const folder = join(home, "bases", base.id);
    if (modelId(base.files) !== base.id) throw new UserError(`the files of ${show(base.name)} are not those of its hash`);
    makeFolder(folder);
    const peers = () => persistently(() => peersOf(base.id, asker), way.signal);
    for (const file of base.files) {
      if (file.path.split("/").includes("..")) throw new UserError(`${show(file.path)} leaves the folder of ${show(base.name)}`);
      const path = join(folder, file.path);
      if (!existsSync(path)) await fetchFile(file, path, { nats, base: base.id, peers, way });
    }
    folders.set(base.id, folder);
    onBase();
    return folder;
  };
  return {
    folders,
    async folderOf(base, way, asker) {
      const turn = (turns.get(base.id) ?? Promise.resolve()).then(() => folders.get(base.id) ?? fetchBase(base, way, asker));
      turns.set(
        base.id,
        turn.catch(() => {}),
      );
      return turn;
    },
    end,
  };
}
