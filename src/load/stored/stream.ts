import { UserError } from "../../base/errors.ts";
import { changed } from "../../base/files/open-file.ts";
import { threadModule } from "../../base/process/program.ts";
import type { Executor } from "../../runtime/executor.ts";
import type { WeightStream } from "../../runtime/streaming/weight-window.ts";
import { awaitMove, awaitReady, createMoveQueue, isDone, issue, stopThread } from "../../store/move-queue.ts";
import { createWeightReader } from "./reader.ts";
import type { StoredWeights } from "./stored-weights.ts";
import type { StreamBoot } from "./stream-thread.ts";

/**
 * Reads weights from disk while the executor computes, on a thread of its own. Reads pass through the page cache: memory that the machine has to
 * spare keeps the bytes, and gives them up at once when it is needed.
 * @throws {UserError} an executor whose memory other threads do not reach
 */
export function openWeightStream(executor: Pick<Executor, "reach" | "mirror">, stored: StoredWeights): WeightStream {
  const { reach, mirror } = executor;
  if (reach.kind === "none")
    throw new UserError(
      "--stream cannot be used with ONNX Runtime's addon, whose memory other threads do not reach; use --device wasm",
    );
  const { files } = stored;
  const names = [...stored.places.keys()];
  const places = [...stored.places.values()];
  const numbers = new Map(names.map((name, i) => [name, i]));
  const numberOf = (param: string): number => {
    const number = numbers.get(param);
    if (number === undefined) throw new Error(`nobody knows where ${param} lies`);
    return number;
  };
  const queue = createMoveQueue();
  const worker = new Worker(threadModule("src/load/stored/stream-thread.ts"));
  // An idle thread does not keep the process alive.
  worker.unref();
  worker.postMessage({ queue, reach, files, places } satisfies StreamBoot);
  awaitReady(queue);
  const reader = createWeightReader(files);
  const counts = { bytes: 0, waited: 0 };
  const check = (): void => {
    for (const file of files) {
      const error = changed(file);
      if (error !== null) throw error;
    }
  };
  return {
    fetch(param, offset, bytes, address) {
      counts.bytes += bytes;
      mirror?.take(address, bytes);
      return issue(queue, { address, bytes, place: offset, file: numberOf(param), after: 0 });
    },
    read(param, offset, target) {
      reader.read(places[numberOf(param)]!, target, offset);
    },
    wait(ticket) {
      const begin = isDone(queue, ticket) ? 0 : performance.now();
      try {
        awaitMove(queue, ticket);
      } catch (error) {
        // The cause, where it is known, says more than the failure.
        check();
        throw new UserError(`cannot read weights: ${error instanceof Error ? error.message : String(error)}`);
      }
      if (begin > 0) counts.waited += (performance.now() - begin) / 1000;
    },
    check,
    get counts() {
      return { ...counts, busy: queue.busy[0]! };
    },
    close() {
      stopThread(queue);
      worker.terminate();
      stored.close();
    },
  };
}
