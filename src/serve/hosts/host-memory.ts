import type { Device } from "../../device.ts";
import { graphHash } from "../../graph/hash.ts";
import type { OpenModel } from "../../load/open-model.ts";
import { createSharedWeights, type SharedWeights } from "../../load/shared-weights.ts";
import { type Address, align, type Executor, type Program } from "../../runtime/executor.ts";
import { createPool } from "./pool.ts";

/** An executor for all models on a base model, those that answer and those that read whole texts: the base's weights are in its memory once. */
export interface BaseMemory {
  readonly weights: SharedWeights;
  /** Bytes that are reserved, lent or not. */
  readonly reserved: number;
  /** The executor as one model has it, whose memory is lent until it is freed. */
  lend(): LentExecutor;
  close(): void;
}

export interface LentExecutor {
  readonly executor: Executor;
  free(): void;
}

function createBaseMemory(device: Device, { source }: Pick<OpenModel, "source">): BaseMemory {
  const { executor } = device;
  const pool = createPool(executor);
  /** Adapters of the same ranks and modules have the same programs. */
  const programs = new Map<string, Program>();
  const prepare: Executor["prepare"] = (graph) => {
    const key = graphHash(graph);
    const known = programs.get(key);
    if (known) return known;
    const program = executor.prepare(graph);
    programs.set(key, program);
    return program;
  };
  return {
    weights: createSharedWeights(executor, source.files),
    get reserved() {
      return executor.reserved;
    },
    lend() {
      const lent = new Map<Address, number>();
      const reserve = (bytes: number): Address => {
        const size = align(bytes);
        const address = pool.take(size);
        lent.set(address, size);
        // Memory that is new is zero, and this may be another model's.
        executor.zero(address, size);
        return address;
      };
      return {
        executor: Object.create(executor, { reserve: { value: reserve }, prepare: { value: prepare } }) as Executor,
        free() {
          for (const [address, bytes] of lent) {
            pool.give(address);
            executor.giveBack?.(address, bytes);
          }
          lent.clear();
        },
      };
    },
    close: () => device.close(),
  };
}

/** The memory of all models on a base model: it is there from when the first comes until the last leaves. */
export interface HostMemory {
  /** Counts one model more, which leaves whether this succeeds or not. @throws {UserError} a device that cannot be used */
  enter(): Promise<BaseMemory>;
  leave(): void;
  /** Bytes that are reserved; 0 where it is not there. */
  readonly reserved: number;
}

export function createHostMemory(model: Pick<OpenModel, "source">, openDevice: () => Promise<Device>): HostMemory {
  let base: BaseMemory | null = null;
  let opening: Promise<BaseMemory> | null = null;
  let members = 0;
  const open = async () => (base = createBaseMemory(await openDevice(), model));
  return {
    async enter() {
      members++;
      opening ??= open();
      return opening;
    },
    leave() {
      members--;
      if (members > 0) return;
      base?.close();
      [base, opening] = [null, null];
    },
    get reserved() {
      return base?.reserved ?? 0;
    },
  };
}
