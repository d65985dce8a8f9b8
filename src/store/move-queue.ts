/**
 * A queue of transfers between the thread that trains and one that moves bytes, in shared memory: neither needs its event
 * loop, which the training thread does not get to during a step.
 */
import type { Address } from "../runtime/executor.ts";

/** Bytes to move between an address of the executor and a place outside. */
export interface Move {
  readonly address: Address;
  readonly bytes: number;
  /** Offset in a file, or a pointer in this process. */
  readonly place: number;
  /** Number of the file, or of the parameter, among those that the thread was started with. */
  readonly file: number;
  /** Ticket of the other queue that has to be done before; 0 for none. */
  readonly after: number;
}

/** Shared with the thread by message. */
export interface MoveQueue {
  /** Words at the positions below. */
  readonly state: Int32Array;
  /** [CAPACITY, WORDS] the moves under way. */
  readonly moves: Float64Array;
  /** Seconds that the thread has spent on moves. */
  readonly busy: Float64Array;
  /** UTF-8 of the error that a move has failed with. */
  readonly error: Uint8Array;
}

const ISSUED = 0;
const DONE = 1;
const READY = 2;
const ERROR_BYTES = 3;
const CAPACITY = 256;
/** Numbers that a move consists of. */
const WORDS = 5;
/** Bytes of the move that ends the thread. */
const STOP = -1;
/** Milliseconds after which a thread that does not start or end is given up. */
const PATIENCE = 20_000;

export function createMoveQueue(): MoveQueue {
  return {
    state: new Int32Array(new SharedArrayBuffer(16)),
    moves: new Float64Array(new SharedArrayBuffer(CAPACITY * WORDS * 8)),
    busy: new Float64Array(new SharedArrayBuffer(8)),
    error: new Uint8Array(new SharedArrayBuffer(1024)),
  };
}

/** Waits for the thread behind a queue to be ready. @throws {Error} when it is not in time, or could not start */
export function awaitReady(queue: MoveQueue): void {
  if (Atomics.wait(queue.state, READY, 0, PATIENCE) === "timed-out") throw new Error("a thread for transfers did not start");
  throwError(queue);
}

/** Appends a move and returns its ticket; waits while the queue is full. Tickets count from 1. */
export function issue(queue: MoveQueue, { address, bytes, place, file, after }: Move): number {
  const { state, moves } = queue;
  const issued = state[ISSUED]!;
  if (issued >= CAPACITY) waitFor(queue, issued - CAPACITY + 1);
  moves.set([address, bytes, place, file, after], (issued % CAPACITY) * WORDS);
  Atomics.store(state, ISSUED, issued + 1);
  Atomics.notify(state, ISSUED);
  return issued + 1;
}

export function isDone({ state }: MoveQueue, ticket: number): boolean {
  return Atomics.load(state, DONE) >= ticket;
}

/** Blocks until a move is done. @throws {Error} with the code of the system call, when this or an earlier one has failed */
export function awaitMove(queue: MoveQueue, ticket: number): void {
  waitFor(queue, ticket);
  throwError(queue);
}

/** Ends the thread after all moves that are under way. */
export function stopThread(queue: MoveQueue): void {
  const ticket = issue(queue, { address: 0, bytes: STOP, place: 0, file: 0, after: 0 });
  waitFor(queue, ticket, PATIENCE);
}

function waitFor({ state }: MoveQueue, ticket: number, patience = Infinity): void {
  for (let done = Atomics.load(state, DONE); done < ticket; done = Atomics.load(state, DONE)) {
    if (Atomics.wait(state, DONE, done, patience) === "timed-out") return;
  }
}

function throwError({ state, error }: MoveQueue): void {
  const length = Atomics.load(state, ERROR_BYTES);
  if (length === 0) return;
  const { code, message } = JSON.parse(new TextDecoder().decode(error.slice(0, length))) as { code: string; message: string };
  throw Object.assign(new Error(message), { code });
}

/**
 * The thread's side: does the moves of `queue` one after the other until it is stopped. After a failure the others are only counted,
 * so that nobody waits for ever. `other` is the queue that `after` speaks of.
 */
export function serve(queue: MoveQueue, other: MoveQueue, move: (of: Move) => void): void {
  const { state, moves, busy } = queue;
  Atomics.store(state, READY, 1);
  Atomics.notify(state, READY);
  for (let next = 0; ; next++) {
    while (Atomics.load(state, ISSUED) === next) Atomics.wait(state, ISSUED, next);
    const [address, bytes, place, file, after] = moves.subarray((next % CAPACITY) * WORDS) as unknown as Tuple;
    if (bytes !== STOP) {
      waitFor(other, after);
      if (Atomics.load(other.state, ERROR_BYTES) === 0 && Atomics.load(state, ERROR_BYTES) === 0) {
        const begin = performance.now();
        try {
          move({ address, bytes, place, file, after });
        } catch (error) {
          fail(queue, error);
        }
        busy[0]! += (performance.now() - begin) / 1000;
      }
    }
    Atomics.store(state, DONE, next + 1);
    Atomics.notify(state, DONE);
    if (bytes === STOP) return;
  }
}

type Tuple = [address: number, bytes: number, place: number, file: number, after: number];

/** Tells an error to the thread that trains. */
export function fail({ state, error }: MoveQueue, cause: unknown): void {
  const code = typeof cause === "object" && cause !== null && "code" in cause ? String(cause.code) : "";
  const message = (cause instanceof Error ? cause.message : String(cause)).slice(0, 200);
  const bytes = new TextEncoder().encode(JSON.stringify({ code, message }));
  error.set(bytes);
  Atomics.store(state, ERROR_BYTES, bytes.length);
  Atomics.store(state, READY, 1);
  Atomics.notify(state, READY);
}
