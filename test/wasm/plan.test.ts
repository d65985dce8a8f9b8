import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { ALIGNMENT, align } from "../../src/runtime/executor.ts";
import { type Interval, mostLive, packIntervals } from "../../src/base/intervals.ts";
import { type Place, type Plan, plan, type PlanRequest, type Step } from "../../src/wasm/plan.ts";

setDefaultTimeout(120_000);

const step = (reads: string[], writes: string[], more: Partial<Step> = {}): Step => ({
  reads,
  writes,
  inPlace: [],
  view: false,
  scratch: [],
  ...more,
});

/** All values have `size` bytes unless `sizes` says otherwise. */
const request = (
  inputs: string[],
  outputs: PlanRequest["outputs"],
  steps: Step[],
  sizes: Record<string, number> = {},
  size = 64,
): PlanRequest => ({ inputs, outputs, steps, bytes: (name) => sizes[name] ?? size });

const lineOf = ({ slot, offset }: Place, line: number): string => `${slot}:${offset / ALIGNMENT + line}`;

/**
 * Executes a plan on labels instead of numbers: each cache line of memory holds the name of the value in it. Throws
 * when a value is read that has been overwritten. The memory of an output that updates an input is that input's.
 */
function execute({ inputs, outputs, steps, bytes }: PlanRequest, result: Plan): void {
  const shared = new Map<number, number>();
  const slotOf = (name: string): number => result.slots.indexOf(name) + 1;
  for (const { name, updates } of outputs) if (updates) shared.set(slotOf(name), slotOf(updates));
  const memory = new Map<string, string>();
  const label = new Map<string, string>();
  const lines = (place: Place, size: number): string[] =>
    Array.from({ length: align(size) / ALIGNMENT }, (_, i) =>
      lineOf({ slot: shared.get(place.slot) ?? place.slot, offset: place.offset }, i),
    );
  const linesOf = (name: string): string[] => lines(result.place.get(name)!, bytes(name));
  const write = (at: string[], content: string): void => at.forEach((line) => memory.set(line, content));
  const holds = (name: string): boolean => linesOf(name).every((line) => memory.get(line) === label.get(name));

  for (const name of inputs) {
    label.set(name, name);
    write(linesOf(name), name);
  }
  steps.forEach((current, at) => {
    for (const name of current.reads) if (name !== "") expect(holds(name), `step ${at} reads ${name}`).toBe(true);
    if (current.view) {
      label.set(current.writes[0]!, label.get(current.reads[0]!)!);
      return;
    }
    // Scratch and results may be written while inputs are still being read, except for pairs that may share memory.
    const scratch = current.scratch.map((size, i) => lines(result.scratch[at]![i]!, size));
    scratch.forEach((place, i) => write(place, `scratch ${at}.${i}`));
    for (const name of current.reads) if (name !== "") expect(holds(name), `scratch of step ${at} overlaps ${name}`).toBe(true);
    current.writes.forEach((name, output) => {
      if (name === "") return;
      const before = new Map(memory);
      write(linesOf(name), name);
      current.reads.forEach((read, input) => {
        const allowed = current.inPlace.some(([o, i]) => o === output && i === input);
        if (read !== "" && !allowed) expect(holds(read), `output ${name} of step ${at} overlaps input ${read}`).toBe(true);
      });
      memory.clear();
      for (const [line, content] of before) memory.set(line, content);
    });
    for (const name of current.writes) {
      if (name === "") continue;
      label.set(name, name);
      write(linesOf(name), name);
    }
    for (const name of current.writes)
      if (name !== "") expect(holds(name), `outputs of step ${at} overlap at ${name}`).toBe(true);
    scratch.forEach((place, i) =>
      expect(
        place.every((line) => memory.get(line) === `scratch ${at}.${i}`),
        `scratch of step ${at} overlaps`,
      ).toBe(true),
    );
  });
  for (const { value, to } of result.copies) {
    expect(holds(value), `copy of ${value}`).toBe(true);
    write(lines(to, bytes(value)), label.get(value)!);
  }
  for (const { name } of outputs) {
    const slot = { slot: slotOf(name), offset: 0 };
    expect(
      lines(slot, bytes(name)).every((line) => memory.get(line) === label.get(name)),
      `output ${name} is not in its place`,
    ).toBe(true);
  }
}

function extent({ steps, bytes }: PlanRequest, result: Plan): number {
  let end = 0;
  for (const [name, { slot, offset }] of result.place) if (slot === 0) end = Math.max(end, offset + align(bytes(name)));
  steps.forEach(({ scratch }, at) =>
    scratch.forEach((size, i) => (end = Math.max(end, result.scratch[at]![i]!.offset + align(size)))),
  );
  return end;
}

/** Random programs: steps with in-place pairs, views, scratch, outputs that update inputs, outputs of every kind. */
const programs: fc.Arbitrary<PlanRequest> = fc
  .record({
    inputs: fc.integer({ min: 1, max: 4 }),
    steps: fc.array(
      fc.record({
        reads: fc.array(fc.nat(), { minLength: 1, maxLength: 3 }),
        results: fc.integer({ min: 1, max: 2 }),
        size: fc.integer({ min: 0, max: 5 }),
        sameSize: fc.boolean(),
        view: fc.boolean(),
        pairs: fc.array(fc.tuple(fc.nat({ max: 1 }), fc.nat({ max: 2 })), { maxLength: 4 }),
        scratch: fc.array(fc.integer({ min: 1, max: 300 }), { maxLength: 2 }),
      }),
      { minLength: 1, maxLength: 14 },
    ),
    outputs: fc.array(fc.tuple(fc.nat(), fc.nat(), fc.boolean()), { minLength: 1, maxLength: 4 }),
  })
  .map(({ inputs: count, steps: shapes, outputs: picks }) => {
    const sizes: Record<string, number> = {};
    const inputs = Array.from({ length: count }, (_, i) => `x${i}`);
    inputs.forEach((name, i) => (sizes[name] = 64 * (1 + (i % 2))));
    const values = [...inputs];
    const viewed = new Set<string>();
    const steps = shapes.map((shape, at): Step => {
      const reads = shape.reads.map((pick) => values[pick % values.length]!);
      const writes = Array.from({ length: shape.view ? 1 : shape.results }, (_, i) => `v${at}.${i}`);
      for (const name of writes) sizes[name] = shape.view || shape.sameSize ? sizes[reads[0]!]! : shape.size * 50;
      values.push(...writes);
      if (shape.view) viewed.add(writes[0]!);
      const inPlace = shape.pairs.filter(([output, input]) => output < writes.length && input < reads.length);
      return shape.view
        ? step(reads.slice(0, 1), writes, { view: true })
        : step(reads, writes, { inPlace, scratch: shape.scratch });
    });
    const outputs = new Map<string, string | undefined>();
    const updated = new Set<string>();
    for (const [pick, input, updates] of picks) {
      const name = values[values.length - 1 - (pick % values.length)]!;
      const target = inputs.find(
        (candidate, i) => i >= input % count && sizes[candidate] === sizes[name] && !updated.has(candidate),
      );
      // An input that is passed on and updated at the same time is refused by the planner (tested below).
      const computed = !inputs.includes(name) && !viewed.has(name);
      if (updates && target && computed && !outputs.has(name) && !outputs.has(target)) {
        outputs.set(name, target);
        updated.add(target);
      } else if (!outputs.has(name) && !updated.has(name)) {
        outputs.set(name, undefined);
      }
    }
    return {
      inputs,
      steps,
      outputs: [...outputs].map(([name, updates]) => ({ name, updates })),
      bytes: (name: string) => sizes[name]!,
    };
  });

describe("plan", () => {
  test("random programs never read what was overwritten, and the workspace is the exact extent", () => {
    fc.assert(
      fc.property(programs, (program) => {
        const result = plan(program);
        execute(program, result);
        expect(result.workspace).toBe(extent(program, result));
        for (const { offset } of result.place.values()) expect(offset % ALIGNMENT).toBe(0);
      }),
      { numRuns: 2000, seed: 7 },
    );
  });

  test("a chain of in-place operators that ends in an output needs no workspace", () => {
    const inPlace = [[0, 0]] as const;
    const result = plan(
      request(
        ["x"],
        [{ name: "c" }],
        [step(["x"], ["a"], { inPlace }), step(["a"], ["b"], { inPlace }), step(["b"], ["c"], { inPlace })],
      ),
    );
    expect(result.workspace).toBe(0);
    expect(result.copies).toEqual([]);
    expect(result.place.get("a")).toEqual(result.place.get("c")!);
  });

  test("a result takes no place of a smaller value, which its own rows would overwrite while others still read it", () => {
    const steps = [step(["x"], ["row"]), step(["x", "row"], ["y"], { inPlace: [[0, 1]] }), step(["y"], ["z"])];
    const sizes: Record<string, number> = { x: 24, row: 12, y: 24, z: 24 };
    const { place } = plan({ inputs: ["x"], outputs: [{ name: "z" }], steps, bytes: (name) => sizes[name]! });
    expect(place.get("y")).not.toEqual(place.get("row")!);
    const same = plan({ inputs: ["x"], outputs: [{ name: "z" }], steps, bytes: () => 24 });
    expect(same.place.get("y")).toEqual(same.place.get("row")!);
  });

  test("an input is not overwritten unless the output updates it", () => {
    const steps = [step(["x"], ["y"], { inPlace: [[0, 0]] })];
    const plain = plan(request(["x"], [{ name: "y" }], steps));
    expect(plain.place.get("y")!.slot).not.toBe(plain.place.get("x")!.slot);
    expect(plain.copies).toEqual([]);
  });

  test("acc + gradient is written directly, the gradient not into the accumulator's memory", () => {
    const program = request(
      ["acc", "x"],
      [{ name: "sum", updates: "acc" }],
      [
        step(["x"], ["g"]),
        step(["acc", "g"], ["sum"], {
          inPlace: [
            [0, 0],
            [0, 1],
          ],
        }),
      ],
    );
    const result = plan(program);
    expect(result.place.get("g")!.slot).toBe(0);
    expect(result.place.get("sum")!.slot).toBe(3);
    expect(result.copies).toEqual([]);
    expect(result.workspace).toBe(64);
  });

  test("an output whose input is still read afterwards is copied in the end", () => {
    const program = request(
      ["acc"],
      [{ name: "sum", updates: "acc" }, { name: "late" }],
      [step(["acc"], ["sum"], { inPlace: [[0, 0]] }), step(["acc"], ["late"])],
    );
    const result = plan(program);
    expect(result.copies.map((copy) => copy.value)).toEqual(["sum"]);
    execute(program, result);
  });

  test("outputs that are inputs, or views of inputs or of each other, are copied", () => {
    const program = request(
      ["x"],
      [{ name: "x" }, { name: "view" }, { name: "y" }, { name: "again" }],
      [step(["x"], ["view"], { view: true }), step(["x"], ["y"]), step(["y"], ["again"], { view: true })],
    );
    const result = plan(program);
    expect(result.copies.map((copy) => copy.value)).toEqual(["view", "again"]);
    execute(program, result);
  });

  test("two outputs that exchange inputs are refused", () => {
    const program = request(
      ["x", "y"],
      [
        { name: "vx", updates: "y" },
        { name: "vy", updates: "x" },
      ],
      [step(["x"], ["vx"], { view: true }), step(["y"], ["vy"], { view: true })],
    );
    expect(() => plan(program)).toThrow("output vx passes on the input that output vy overwrites");
  });

  test("results of one step share no memory though both may take the same input's", () => {
    const program = request(
      ["x"],
      [{ name: "end" }],
      [
        step(["x"], ["a"]),
        step(["a"], ["b", "c"], {
          inPlace: [
            [0, 0],
            [1, 0],
          ],
        }),
        step(["b", "c"], ["end"]),
      ],
    );
    const result = plan(program);
    execute(program, result);
    expect(result.workspace).toBe(128);
  });
});

describe("packIntervals", () => {
  const blocks = fc.array(
    fc.record({ bytes: fc.integer({ min: 1, max: 40 }), first: fc.nat({ max: 20 }), length: fc.nat({ max: 8 }) }),
    { minLength: 1, maxLength: 40 },
  );

  test("blocks that live at one time do not overlap; the peak is the extent and at least the live bytes", () => {
    fc.assert(
      fc.property(blocks, (shapes) => {
        const list: Interval[] = shapes.map(({ bytes, first, length }) => ({ bytes, first, last: first + length }));
        const { offsets, extent } = packIntervals(list);
        list.forEach((a, i) =>
          list.forEach((b, j) => {
            if (i >= j || a.last < b.first || b.last < a.first) return;
            expect(offsets[i]! + a.bytes <= offsets[j]! || offsets[j]! + b.bytes <= offsets[i]!).toBe(true);
          }),
        );
        expect(extent).toBe(Math.max(...list.map((block, i) => offsets[i]! + block.bytes)));
        expect(extent).toBeGreaterThanOrEqual(mostLive(list));
      }),
      { numRuns: 500, seed: 3 },
    );
  });

  test("within 5 % of the lower bound on average over random instances, within 25 % always", () => {
    let sum = 0;
    const instances = fc.sample(blocks, { numRuns: 300, seed: 5 });
    for (const shapes of instances) {
      const list = shapes.map(({ bytes, first, length }) => ({ bytes, first, last: first + length }));
      const ratio = packIntervals(list).extent / mostLive(list);
      expect(ratio).toBeLessThanOrEqual(1.25);
      sum += ratio;
    }
    expect(sum / instances.length).toBeLessThanOrEqual(1.05);
  });

  test("nothing to place", () => {
    expect(packIntervals([])).toEqual({ offsets: new Float64Array(0), extent: 0, lowerBound: 0 });
  });
});
