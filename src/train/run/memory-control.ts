import { UserError } from "../../base/errors.ts";

/** Makes a limit of memory what is asked for. Resolves to the bytes that are kept from then on; null: the run ended before. */
export type Resize = (bytes: number) => Promise<number | null>;

/** Changes the memory limit of a run while it trains, as an `AbortController` ends one. */
export interface MemoryControl {
  /**
   * Asks for another limit of the process's memory. It holds from the next micro-batch on, when the promise resolves to it: to more than was
   * asked for where no schedule keeps that, or where the system takes no memory back; to null when the run is over. Of several that are
   * asked for meanwhile the newest counts.
   * @throws {UserError} what is no number of bytes
   */
  readonly resize: Resize;
  /** Used by a run: hands it what is asked for, now and later. Returns what ends that, and the control. */
  attach(resize: Resize): () => void;
}

export function createMemoryControl(): MemoryControl {
  let early: { readonly bytes: number; readonly resolve: (bytes: number | null) => void }[] = [];
  let attached: Resize | null = null;
  let isOver = false;
  return {
    resize(bytes) {
      if (!(bytes > 0)) throw new UserError(`a limit of memory is a positive number of bytes; got ${bytes}`);
      if (isOver) return Promise.resolve(null);
      return attached?.(bytes) ?? new Promise((resolve) => early.push({ bytes, resolve }));
    },
    attach(resize) {
      if (attached !== null) throw new UserError("a control of memory is for one run; create one for each");
      attached = resize;
      const [asked, newest] = [early, early.at(-1)];
      early = [];
      if (newest) void resize(newest.bytes).then((limit) => asked.forEach(({ resolve }) => resolve(limit)));
      return () => void (isOver = true);
    },
  };
}

/** What is asked of a run, until it comes to it. */
export interface MemoryWishes {
  /** Called between two micro-batches: has `resize` do what is asked for, if anything is, and return the bytes that are kept from then on. */
  fulfil(resize: (bytes: number) => number): void;
  /** The run is over. */
  end(): void;
}

export function memoryWishes(control: MemoryControl): MemoryWishes {
  let wanted: { readonly bytes: number; readonly resolve: readonly ((bytes: number | null) => void)[] } | null = null;
  const settle = (limit: (bytes: number) => number | null) => {
    if (!wanted) return;
    const { bytes, resolve } = wanted;
    wanted = null;
    const kept = limit(bytes);
    resolve.forEach((each) => each(kept));
  };
  const detach = control.attach(
    (bytes) => new Promise((resolve) => (wanted = { bytes, resolve: [...(wanted?.resolve ?? []), resolve] })),
  );
  return {
    fulfil: settle,
    end() {
      detach();
      settle(() => null);
    },
  };
}
