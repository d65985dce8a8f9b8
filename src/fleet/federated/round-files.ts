import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { fileError, makeFolder, writeAtomic, writeTextAtomic } from "../../base/files/files.ts";
import { readJsonObject } from "../../base/json.ts";
import { parseWith } from "../../base/schema.ts";
import { numbersSchema, reportSchema } from "./messages.ts";
import { federationSchema, type Federation, nodeName } from "./settings.ts";
import type { Common } from "./updates/aggregate.ts";
import { digestOf, sha256 } from "./updates/layout.ts";

/**
 * The files of a coordinator, so that it may be ended at any instant and go on: `federation.json` with the settings, `state.json` with where the rounds are,
 * and beside it the vectors of the common model and the updates of the open round. `state.json` is written last and says which files count.
 */

const updateSchema = z.strictObject({ node: nodeName, digest: z.string(), bytes: z.int(), report: reportSchema });

/** An update of a node, as it lies on disk. */
export type StoredUpdate = z.output<typeof updateSchema>;

const closedSchema = z.strictObject({
  round: z.int(),
  nodes: z.array(updateSchema),
  lost: z.number().nullable(),
  /** Bytes of the change that every node is sent. */
  change: z.int(),
  seconds: z.number(),
});

/** A round that is over. */
export type ClosedRound = z.output<typeof closedSchema>;

const stateSchema = z.strictObject({
  /** The round that is open. */
  round: z.int().min(1),
  /** SHA-256 of the vectors. */
  parameters: z.string(),
  model: z.string(),
  velocity: z.string().nullable(),
  closed: z.array(closedSchema),
  /** The last model on the nodes' held-out examples. */
  evaluations: z.record(nodeName, numbersSchema.nullable()),
});

export type RoundState = z.output<typeof stateSchema>;

/** Changes that are kept for nodes that were away; who was away for longer is sent the whole model. */
const KEPT_CHANGES = 8;

const FEDERATION = "federation.json";
const STATE = "state.json";

export interface RoundFiles {
  readonly state: RoundState;
  readonly common: Common;
  /** Updates of the open round, by node. */
  readonly updates: ReadonlyMap<string, StoredUpdate>;
  readUpdate(update: StoredUpdate): Uint8Array;
  addUpdate(update: StoredUpdate, bytes: Uint8Array): void;
  /** The change from the model of the round before to that of a round; null: it is not kept. */
  change(round: number): Uint8Array | null;
  /** Closes the open round and opens the next. */
  close(closed: ClosedRound, common: Common, change: Uint8Array): void;
  addEvaluation(node: string, numbers: RoundState["evaluations"][string]): void;
}

/** Returns the federation that a folder holds, or null. @throws {UserError} */
export function readFederation(folder: string): Federation | null {
  const path = join(folder, FEDERATION);
  return existsSync(path) ? parseWith<Federation>(federationSchema, readJsonObject(path), path) : null;
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array<ArrayBuffer>) => new Uint8Array(buffer, byteOffset, byteLength);

/** Opens the files of a federation, and begins them where there are none. @throws {UserError} files that are damaged */
export function openRoundFiles(folder: string, federation: Federation, begin: () => Common): RoundFiles {
  const path = (name: string) => join(folder, name);
  const vectorPath = (name: string, round: number) => path(`${name}-${round}.f32`);
  const updatePath = (round: number, node: string, ending: string) => path(`update-${round}-${node}.${ending}`);
  const changePath = (round: number) => path(`change-${round}.bin`);

  const writeVectors = (round: number, { parameters, model, velocity }: Common) => {
    writeAtomic(vectorPath("parameters", round), [bytesOf(parameters)]);
    writeAtomic(vectorPath("model", round), [bytesOf(model)]);
    if (velocity) writeAtomic(vectorPath("velocity", round), [bytesOf(velocity)]);
    return { parameters: digestOf(parameters), model: digestOf(model), velocity: velocity && digestOf(velocity) };
  };
  const readVector = (name: string, round: number, digest: string): Float32Array<ArrayBuffer> => {
    const values = new Float32Array(readBytes(vectorPath(name, round)).slice().buffer);
    if (digestOf(values) !== digest)
      throw new UserError(
        `${vectorPath(name, round)} does not have the checksum that ${STATE} states; bring it back from a copy`,
      );
    return values;
  };
  const write = (next: RoundState) => {
    writeTextAtomic(path(STATE), `${JSON.stringify(next, null, 1)}\n`);
    state = next;
  };
  const readUpdates = (round: number): Map<string, StoredUpdate> => {
    const begins = `update-${round}-`;
    const names = readdirSync(folder).filter((name) => name.startsWith(begins) && name.endsWith(".json"));
    return new Map(
      names.sort().map((name) => {
        const update = parseWith<StoredUpdate>(updateSchema, readJsonObject(path(name)), path(name));
        return [update.node, update];
      }),
    );
  };
  const removeOld = (round: number) => {
    for (const name of readdirSync(folder)) {
      const found = /^(update|change|parameters|model|velocity)-(\d+)[-.]/.exec(name);
      if (!found) continue;
      const [, kind, number] = found;
      const least = kind === "change" ? round - KEPT_CHANGES + 1 : round;
      if (Number(number) < least) rmSync(path(name), { force: true });
    }
  };

  makeFolder(folder);
  let state: RoundState;
  let common: Common;
  if (existsSync(path(STATE))) {
    state = parseWith<RoundState>(stateSchema, readJsonObject(path(STATE)), path(STATE));
    common = {
      parameters: readVector("parameters", state.round, state.parameters),
      model: readVector("model", state.round, state.model),
      velocity: state.velocity === null ? null : readVector("velocity", state.round, state.velocity),
    };
  } else {
    common = begin();
    writeTextAtomic(path(FEDERATION), `${JSON.stringify(federation, null, 1)}\n`);
    write((state = { round: 1, ...writeVectors(1, common), closed: [], evaluations: {} }));
  }
  let updates = readUpdates(state.round);
  return {
    get state() {
      return state;
    },
    get common() {
      return common;
    },
    get updates() {
      return updates;
    },
    readUpdate({ node, digest }) {
      const bytes = readBytes(updatePath(state.round, node, "bin"));
      if (sha256(bytes) !== digest)
        throw new UserError(
          `${updatePath(state.round, node, "bin")} does not have the checksum that is beside it; remove both files`,
        );
      return bytes;
    },
    addUpdate(update, bytes) {
      writeAtomic(updatePath(state.round, update.node, "bin"), [bytes]);
      writeTextAtomic(updatePath(state.round, update.node, "json"), `${JSON.stringify(update)}\n`);
      updates.set(update.node, update);
    },
    change: (round) => (existsSync(changePath(round)) ? readBytes(changePath(round)) : null),
    close(closed, next, change) {
      const round = state.round + 1;
      writeAtomic(changePath(round), [change]);
      write({ ...state, round, ...writeVectors(round, next), closed: [...state.closed, closed] });
      common = next;
      updates = new Map();
      removeOld(round);
    },
    addEvaluation(node, numbers) {
      write({ ...state, evaluations: { ...state.evaluations, [node]: numbers } });
    },
  };
}

/** @throws {UserError} */
function readBytes(file: string): Uint8Array {
  try {
    return readFileSync(file);
  } catch (error) {
    throw fileError("read", file, error);
  }
}
