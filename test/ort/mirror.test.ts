import { describe, expect, test } from "bun:test";
import { createRandom } from "../../src/base/random.ts";
import { type BufferDevice, createMirror } from "../../src/ort/webgpu/mirror.ts";

const SIZE = 1024;
const UNIT = 64;
const GARBAGE = 0xaa;

/** A device that is memory of the process too, and what addresses point to. */
function fake(large?: number) {
  const host = new Uint8Array(SIZE);
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
        switch (random.below(6)) {
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
