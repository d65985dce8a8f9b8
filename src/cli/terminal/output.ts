import { messageOf } from "../../base/errors.ts";

/**
 * The streams that the command line writes to. A reader may leave (`| head`): what is under way, such as a training run, goes on without being
 * seen. Any other failure (a full disk behind `>`) ends long work in good order, and is one sentence at the end.
 */
const STREAMS = { "standard output": process.stdout, "standard error": process.stderr } as const;

type StreamName = keyof typeof STREAMS;

let failure: { readonly stream: StreamName; readonly reason: string } | null = null;
const listeners = new Set<() => void>();

/** Listens to the streams' errors: to be called once, before anything is written. */
export function guardOutput(): void {
  for (const [name, stream] of Object.entries(STREAMS) as [StreamName, NodeJS.WriteStream][]) {
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EPIPE" || failure !== null) return;
      failure = { stream: name, reason: error.code === "ENOSPC" ? "the disk is full" : messageOf(error) };
      for (const listener of listeners) listener();
    });
  }
}

/** Calls `listener` when the output can no longer be written. Returns what takes the listener away. */
export function onOutputFailure(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Writes a line to standard output. */
export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Waits until the streams have written what they were given, and says on the other stream that one could not. True when one could not. */
export async function reportOutputFailure(): Promise<boolean> {
  await Promise.all(Object.values(STREAMS).map((stream) => new Promise<void>((done) => stream.write("", () => done()))));
  // Errors of the last writes come with the next turn of the event loop.
  await Bun.sleep(0);
  if (failure === null) return false;
  const { stream, reason } = failure;
  const other = stream === "standard output" ? process.stderr : process.stdout;
  other.write(
    `remat: ${stream} cannot be written: ${reason}; what was said from then on is lost, and what was under way was ended in good order\n`,
  );
  return true;
}
