import type { KV, KvWatchEntry } from "@nats-io/kv";
import type { NatsConnection, QueuedIterator } from "@nats-io/transport-node";

/** The entries of a bucket as they change. */
export interface Following {
  /** All entries that were there at the beginning have been told. */
  readonly begun: Promise<void>;
  end(): void;
}

/** Milliseconds between two tries to follow a bucket. */
const AGAIN_MS = 250;

/**
 * Tells the newest value of each entry of a bucket, and each later one; null: the entry is gone. Whenever the server has been away, everything is told
 * anew: a consumer of a server that died is not waited for.
 */
export function follow<T>(
  nats: NatsConnection,
  bucket: KV,
  key: string,
  onEntry: (key: string, value: T | null, revision: number) => void,
): Following {
  let isOver = false;
  let watch = null as QueuedIterator<KvWatchEntry> | null;
  const begun = Promise.withResolvers<void>();
  const known = new Set<string>();

  const begin = async (): Promise<void> => {
    const found = new Set<string>();
    let isInitial = true;
    const opened = await bucket.watch({ key });
    if (isOver) return opened.stop();
    watch = opened;
    // An empty bucket tells nothing.
    const isEmpty = await isWithoutKeys(bucket, key);
    const complete = () => {
      isInitial = false;
      for (const each of known) if (!found.has(each)) onEntry(each, null, 0);
      begun.resolve();
    };
    if (isEmpty) complete();
    for await (const entry of opened) {
      const isThere = entry.operation === "PUT";
      if (isThere) known.add(entry.key);
      else known.delete(entry.key);
      if (isInitial) found.add(entry.key);
      onEntry(entry.key, isThere ? entry.json<T>() : null, entry.revision);
      if (isInitial && (entry.delta === 0 || entry.isUpdate)) complete();
    }
  };

  const loop = async (): Promise<void> => {
    while (!isOver) {
      try {
        await begin();
      } catch {
        // The server is away.
      }
      if (!isOver) await Bun.sleep(AGAIN_MS);
    }
  };
  const status = nats.status();
  void (async () => {
    for await (const { type } of status) {
      if (isOver) return;
      if (type === "reconnect") watch?.stop();
    }
  })();
  void loop();
  return {
    begun: begun.promise,
    end() {
      isOver = true;
      watch?.stop();
      begun.resolve();
    },
  };
}

async function isWithoutKeys(bucket: KV, filter: string): Promise<boolean> {
  for await (const _ of await bucket.keys(filter)) return false;
  return true;
}
