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
 * Tells the newest value of each entry of a bucket, and each later one; null: the entry was deleted. Whenever the server has been away, everything is told
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

  const begin = async (): Promise<void> => {
    const opened = await bucket.watch({ key });
    if (isOver) return opened.stop();
    watch = opened;
    // An empty bucket tells nothing; of entries that were deleted it has markers.
    if ((await bucket.status()).values === 0) begun.resolve();
    for await (const entry of opened) {
      onEntry(entry.key, entry.operation === "PUT" ? entry.json<T>() : null, entry.revision);
      if (entry.delta === 0 || entry.isUpdate) begun.resolve();
    }
  };

  const loop = async (): Promise<void> => {
    while (!isOver) {
      try {
        await begin();
      } catch {
        // The server is away.
        watch?.stop();
      }
      if (!isOver) await Bun.sleep(AGAIN_MS);
    }
  };
  void (async () => {
    for await (const { type } of nats.status()) {
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
