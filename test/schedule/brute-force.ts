import type { Chain } from "../../src/schedule/chain.ts";
import { variantsOf } from "../../src/schedule/chain.ts";

/**
 * Least time of any valid schedule whose peak is at most `memory`, over the full semantics of the steps (any order of
 * forwards, tapes, replays and drops, and of copies and fetches that stop the computation), or null: Dijkstra over the sets of live
 * items. For chains of up to six segments, or four with offload. Written against the table of steps alone; it shares nothing with the
 * simulator or the planner.
 */
export function leastTime(chain: Chain, memory: number): number | null {
  const { n, a, g, w, uf, of, frozen, replay, offload } = chain;
  const variants = Array.from({ length: n }, (_, i) => variantsOf(chain, i + 1));
  const radix = 1 + Math.max(...variants.map((list) => list.length));
  const power = Array.from({ length: n + 1 }, (_, i) => radix ** i);

  // A state is (boundaries as bits, tapes as digits: 0 none, k + 1 variant k, next backward), and the same of the copies outside.
  const tapeStates = radix ** n;
  const sets = tapeStates * 2 ** (n + 1);
  /** Copies outside of the state that is being left. */
  let copies = 0;
  const encode = (live: number, tapes: number, next: number) => (copies * (n + 1) + next) * sets + tapes * 2 ** (n + 1) + live;
  const digit = (tapes: number, i: number) => Math.floor(tapes / power[i - 1]!) % radix;

  const bytes = (live: number, tapes: number, next: number): number => {
    let sum = g[next]!;
    for (let j = 0; j <= n; j++) if (live & (1 << j)) sum += a[j]!;
    for (let i = 1; i <= n; i++) {
      const k = digit(tapes, i);
      if (k > 0) sum += variants[i - 1]![k - 1]!.r;
      if (i > next) sum += w[i - 1]!;
    }
    return sum;
  };

  const times = new Map<number, number>();
  const done = new Set<number>();
  const heap = makeHeap();
  const reach = (live: number, tapes: number, next: number, time: number): void => {
    // Boundaries that no later backward reads are freed at once.
    const kept = live & ((1 << next) - 1);
    const state = encode(kept, tapes, next);
    if (time < (times.get(state) ?? Infinity)) {
      times.set(state, time);
      heap.push(time, state);
    }
  };
  if (bytes(1, 0, n) > memory) return null;
  reach(1, 0, n, 0);
  for (let state = heap.pop(); state !== undefined; state = heap.pop()) {
    if (done.has(state)) continue;
    done.add(state);
    const time = times.get(state)!;
    const live = state % 2 ** (n + 1);
    const tapes = Math.floor(state / 2 ** (n + 1)) % tapeStates;
    const next = Math.floor(state / sets) % (n + 1);
    copies = Math.floor(state / sets / (n + 1));
    if (next === frozen) return time;
    const now = bytes(live, tapes, next);
    for (let i = 1; i <= n; i++) {
      if (live & (1 << (i - 1))) {
        const kept = live | (1 << i);
        if (!(live & (1 << i)) && i <= next) {
          if (now + a[i]! + of[i - 1]! <= memory) {
            reach(kept, tapes, next, time + uf[i - 1]!);
            reach(kept & ~(1 << (i - 1)), tapes, next, time + uf[i - 1]!);
          }
          if (i > frozen && digit(tapes, i) === 0) {
            variants[i - 1]!.forEach((tape, k) => {
              if (now + a[i]! + tape.r + tape.of > memory) return;
              reach(kept, tapes + (k + 1) * power[i - 1]!, next, time + tape.uf);
            });
          }
        }
        if (i === next) {
          const k = digit(tapes, i);
          const own = now + g[i - 1]! + w[i - 1]!;
          const tape = k > 0 ? variants[i - 1]![k - 1]! : null;
          const fused = replay[i - 1]!;
          if (tape && own + tape.ob <= memory) reach(live, tapes - k * power[i - 1]!, i - 1, time + tape.ub);
          if (fused && own + fused.ob <= memory) reach(live, tapes - k * power[i - 1]!, i - 1, time + fused.ub);
        }
      }
      const k = digit(tapes, i);
      if (k > 0) reach(live, tapes - k * power[i - 1]!, next, time);
    }
    for (let j = 0; j < next; j++) if (live & (1 << j)) reach(live & ~(1 << j), tapes, next, time);
    if (!offload) continue;
    const before = copies;
    const copiedTapes = Math.floor(copies / 2 ** (n + 1));
    for (let j = 0; j < next; j++) {
      const isCopied = (before & (1 << j)) !== 0;
      if (live & (1 << j) && !isCopied) {
        copies = before + (1 << j);
        reach(live, tapes, next, time + a[j]! / offload.out);
        copies = before;
      }
      if (isCopied && !(live & (1 << j)) && now + a[j]! <= memory) reach(live | (1 << j), tapes, next, time + a[j]! / offload.in);
    }
    for (let i = frozen + 1; i <= next; i++) {
      const k = digit(tapes, i);
      const copied = digit(copiedTapes, i);
      if (k > 0 && copied !== k) {
        copies = before + (k - copied) * power[i - 1]! * 2 ** (n + 1);
        reach(live, tapes, next, time + variants[i - 1]![k - 1]!.r / offload.out);
        copies = before;
      }
      const size = copied > 0 ? variants[i - 1]![copied - 1]!.r : 0;
      if (copied > 0 && k === 0 && now + size <= memory) {
        reach(live, tapes + copied * power[i - 1]!, next, time + size / offload.in);
      }
    }
  }
  return null;
}

/** A binary heap of (key, value) pairs, least key first. */
function makeHeap(): { push(key: number, value: number): void; pop(): number | undefined } {
  const keys: number[] = [];
  const values: number[] = [];
  const swap = (i: number, j: number) => {
    [keys[i], keys[j]] = [keys[j]!, keys[i]!];
    [values[i], values[j]] = [values[j]!, values[i]!];
  };
  return {
    push(key, value) {
      let i = keys.push(key) - 1;
      values.push(value);
      for (let up = (i - 1) >> 1; i > 0 && keys[up]! > keys[i]!; i = up, up = (i - 1) >> 1) swap(i, up);
    },
    pop() {
      if (keys.length === 0) return undefined;
      swap(0, keys.length - 1);
      keys.pop();
      const value = values.pop();
      for (let i = 0; ;) {
        let least = i;
        for (const child of [2 * i + 1, 2 * i + 2]) if (child < keys.length && keys[child]! < keys[least]!) least = child;
        if (least === i) return value;
        swap(i, least);
        i = least;
      }
    },
  };
}
