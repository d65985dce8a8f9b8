import { describe, expect, test } from "bun:test";
import { createRandom } from "../../src/base/random.ts";
import { createMirror } from "../../src/ort/webgpu/mirror.ts";
import type { BufferDevice } from "../../src/ort/webgpu/pool.ts";

const SIZE = 1024;
const UNIT = 64;
const GARBAGE = 0xaa;
/** Places that ranges are copied to, behind all addresses. */
const PLACES = 2;

/** A device that is memory of the process too, and what addresses point to. */
function fake(large?: number) {
  const host = new Uint8Array((1 + PLACES) * SIZE);
  const buffers = new Map<number, Uint8Array>();
  let next = 1;
  const device: BufferDevice = {
    allocate(bytes) {
      buffers.set(next, new Uint8Array(bytes).fill(GARBAGE));
      return next++;
    },
    free: (buffer) => expect(buffers.delete(buffer)).toBe(true),
    upload: (from, to, bytes) =>
      buffers.get(to)!.set(typeof from === "number" ? host.subarray(from, from + bytes) : from.subarray(0, bytes)),
    download: (from, to, bytes) => host.set(buffers.get(from)!.subarray(0, bytes), to),
    clear: (address, bytes) => void host.fill(0, address, address + bytes),
    giveBack: (address, bytes) => void host.fill(GARBAGE, address, address + bytes),
    move: (from, to, bytes) => void host.copyWithin(to, from, from + bytes),
  };
  return { host, buffers, mirror: createMirror(device, () => SIZE, large) };
}

type Interval = readonly [address: number, bytes: number];

/** The mirror beside plain memory, in which the same programs run. */
function both(large?: number) {
  const { host, buffers, mirror } = fake(large);
  const plain = new Uint8Array(SIZE);
  /** False for bytes that are arbitrary. */
  const known = new Uint8Array(SIZE).fill(1);
  /** What ranges were when they were copied, by place. */
  const copies = new Map<number, { readonly data: Uint8Array; readonly known: Uint8Array }>();
  const part = (memory: Uint8Array, [address, bytes]: Interval) => memory.subarray(address, address + bytes);
  /** Bytes that depend on all inputs, on their own place and on `salt`. */
  const made = (inputs: readonly Uint8Array[], bytes: number, salt: number) =>
    Uint8Array.from({ length: bytes }, (_, i) => inputs.reduce((sum, input) => sum + (input[i % input.length] ?? 0), salt + i));
  return {
    buffers,
    mirror,
    known: (interval: Interval) => part(known, interval).every((each) => each === 1),
    run(inputs: readonly Interval[], outputs: readonly Interval[], salt: number) {
      const ranges = (intervals: readonly Interval[]) => intervals.map((interval) => mirror.range(...interval));
      mirror.run(ranges(inputs), ranges(outputs), (from, to) => {
        expect(new Set([...to, ...from]).size).toBe(new Set(from).size + to.length);
        const values = inputs.map(([, bytes], i) => buffers.get(from[i]!)!.slice(0, bytes));
        outputs.forEach(([, bytes], i) => buffers.get(to[i]!)!.set(made(values, bytes, salt + i)));
      });
      const values = inputs.map((interval) => part(plain, interval).slice());
      outputs.forEach((interval, i) => {
        part(plain, interval).set(made(values, interval[1], salt + i));
        part(known, interval).fill(1);
      });
    },
    write(interval: Interval, salt: number) {
      mirror.take(...interval);
      for (const memory of [host, plain]) part(memory, interval).set(made([], interval[1], salt));
      part(known, interval).fill(1);
    },
    zero(interval: Interval) {
      mirror.zero(...interval);
      part(plain, interval).fill(0);
      part(known, interval).fill(1);
    },
    forget(interval: Interval) {
      mirror.forget(...interval);
      part(known, interval).fill(0);
    },
    copyOut(interval: Interval, place: number) {
      mirror.copyOut(...interval, (1 + place) * SIZE);
      copies.set(place, { data: part(plain, interval).slice(), known: part(known, interval).slice() });
    },
    /** Fills an interval from a place that one of its size was copied to. */
    copyIn([address]: Interval, place: number) {
      const copy = copies.get(place);
      if (!copy || address + copy.data.length > SIZE) return;
      mirror.copyIn(address, copy.data.length, (1 + place) * SIZE);
      plain.set(copy.data, address);
      known.set(copy.known, address);
    },
    check(interval: Interval) {
      mirror.publish(...interval);
      const [actual, expected] = [part(host, interval), part(plain, interval)];
      const wrong = expected.findIndex((byte, i) => known[interval[0] + i] === 1 && byte !== actual[i]);
      expect([interval, wrong]).toEqual([interval, -1]);
    },
  };
}

describe("memory of a device behind addresses", () => {
  test("what a program leaves stays on the device: it comes back when it is read, once", () => {
    const { mirror, run, check, zero } = both();
    run([[0, 64]], [[64, 128]], 1);
    for (let i = 0; i < 10; i++) run([[64, 128]], [[64, 128]], i);
    expect(mirror.counts).toMatchObject({ up: 64, down: 0 });
    check([64, 128]);
    check([64, 128]);
    expect(mirror.counts).toMatchObject({ up: 64, down: 128 });
    zero([64, 128]);
    run([[64, 128]], [[64, 128]], 3);
    run([[64, 128]], [[192, 64]], 3);
    check([0, 256]);
    // The zeros went up, once for all.
    expect(mirror.counts.up).toBe(64 + 128);
  });

  test("what is copied to a place leaves the device and comes back to it without the memory behind addresses", () => {
    const { mirror, run, check, copyOut, copyIn, forget, zero } = both(1);
    run([[0, 64]], [[64, 128]], 1);
    zero([192, 64]);
    copyOut([64, 256], 0);
    expect(mirror.counts).toMatchObject({ up: 64, down: 128 });
    forget([64, 256]);
    const { held } = mirror.counts;
    run([], [[64, 256]], 2);
    copyIn([512, 0], 0);
    expect(mirror.counts).toMatchObject({ up: 64 + 128, down: 128, held: held + 256 });
    run([[512, 128]], [[832, 64]], 3);
    expect(mirror.counts).toMatchObject({ up: 64 + 128, down: 128 });
    check([512, 256]);
    check([0, SIZE]);
  });

  test("buffers serve others when nothing reads them any more, and all are given back at the end", () => {
    const { mirror, run, forget, buffers } = both();
    for (let i = 0; i < 8; i++) {
      run([[0, 64]], [[64 + 64 * i, 64]], i);
      forget([64 + 64 * i, 64]);
    }
    expect(mirror.counts.held).toBe(2 * 64);
    run([], [[512, 512]], 1);
    // Three sizes, no more than was reserved.
    run([], [[64, 448]], 1);
    expect(mirror.counts.peak).toBeLessThanOrEqual(SIZE);
    mirror.close();
    expect(buffers.size).toBe(0);
    expect(mirror.counts.held).toBe(0);
  });

  test.each([
    ["small pieces", undefined],
    ["pieces that memory of the process gives back", 1],
  ])("random programs, writes, zeros and reads, %s: the bytes of plain memory", (_, large) => {
    for (let seed = 0; seed < 20; seed++) {
      const random = createRandom(seed, "mirror");
      const memory = both(large);
      // Few intervals, so that they meet again: some the same, some in part.
      const intervals = Array.from({ length: 14 }, (): Interval => {
        const address = UNIT * random.below(SIZE / UNIT);
        return [address, Math.min(SIZE - address, 16 * (1 + random.below(20)))];
      });
      const any = () => intervals[random.below(intervals.length)]!;
      for (let step = 0; step < 300; step++) {
        const interval = any();
        switch (random.below(8)) {
          case 0:
            memory.write(interval, step);
            break;
          case 1:
            memory.zero(interval);
            break;
          case 2:
            memory.check(interval);
            break;
          case 3:
            if (random.below(4) === 0) memory.forget(interval);
            break;
          case 4:
            memory.copyOut(interval, random.below(PLACES));
            break;
          case 5:
            memory.copyIn(interval, random.below(PLACES));
            break;
          default: {
            const inputs = [any(), any()].filter(memory.known);
            const apart = (others: readonly Interval[], [address, bytes]: Interval) =>
              others.every(([other, length]) => address + bytes <= other || other + length <= address);
            const outputs = [any(), any()].reduce<Interval[]>((some, each) => (apart(some, each) ? [...some, each] : some), []);
            memory.run(inputs, outputs, step);
          }
        }
      }
      memory.check([0, SIZE]);
      memory.mirror.close();
      expect(memory.buffers.size).toBe(0);
    }
  });
});
