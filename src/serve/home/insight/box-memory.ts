import { join } from "node:path";
import { residentMemory } from "../../../base/process/free-memory.ts";
import type { Home } from "../../../jobs/home/home.ts";
import type { Ledger } from "../../../jobs/ledger.ts";
import type { BoxMemory } from "../../../page/api/types.ts";
import { holderOf, LOCK_FILE } from "../../../train/run/lock.ts";
import type { Host } from "../../hosts/host.ts";

export function boxMemory(ledger: Ledger, hosts: readonly Host[], home: Home): BoxMemory {
  return {
    object: "memory",
    limit: ledger.limit,
    free: ledger.free,
    serving: {
      held: ledger.serving(),
      now: process.memoryUsage.rss(),
      models: hosts.map((host) => ({ id: host.name, loaded: host.isLoaded, bytes: host.bytes(), adapters: host.adapters })),
    },
    jobs: [...ledger.jobs].map(([id, held]) => {
      // Without a look at the lock itself, which the process might be about to take.
      const pid = Number(holderOf(join(home.runOf(id), LOCK_FILE)));
      return { id, held, now: pid > 0 ? residentMemory(pid) : null };
    }),
  };
}
