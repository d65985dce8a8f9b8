import { describe, expect, test } from "bun:test";
import { trainConfigSchema } from "../../src/train/config.ts";
import { createCurve, createRunCurves, type Point, type RunCurves, SMOOTHED } from "../../src/train/run/report/curves.ts";
import { type Facts, factsElement, factsIn } from "../../src/train/run/report/facts.ts";
import { type PageInput, reportPage } from "../../src/train/run/report/page.ts";
import { createRandom } from "../../src/base/random.ts";
import { METRICS } from "../../src/objectives/index.ts";
import { collisions } from "../support/drawings.ts";

const NOW = new Date("2026-11-29T12:34:56Z");

const FACTS: Facts = {
  version: 1,
  run: {
    family: "llama",
    layers: 3,
    parameters: { all: 100_000, trainable: 5_000 },
    examples: 10,
    tokens: 400,
    labelled: 120,
    heldOut: 2,
    strategy: "per-segment",
    schedule: "0 segments keep everything; 12.0 % more time than with everything kept",
    device: "wasm, 2 threads",
    offload: null,
    notes: [],
    firstExample: [
      { text: "a question", trained: false },
      { text: "an answer", trained: true },
    ],
  },
  memory: {
    resident: { frozen: 300, trainable: 40, gradients: 40, optimizer: 80, batch: 12, logits: 0, checks: 0 },
    stash: 100,
    workspace: 200,
    temporary: 0,
    peak: 772,
    withoutCheckpointing: 1500,
    limit: null,
    timeline: {
      slots: [
        { start: 0, end: 0.5, bytes: [50, 0, 10, 100] },
        { start: 0.5, end: 1, bytes: [20, 30, 10, 200] },
      ],
      moves: [],
    },
    measured: 770,
    process: 1e6,
  },
  sample: { prompt: "the prompt", before: "words before", after: "words after" },
  end: { reason: "finished", message: null, bestStep: null },
  warnings: [],
};

const CONFIG = trainConfigSchema.parse({ model: "models/tiny", data: "data.jsonl", output: "runs/mine", rank: 16 });

function curvesOf(steps: number, evalEvery: number, lossAt: (step: number) => number = (step) => 2 + 1 / step): RunCurves {
  const curves = createRunCurves();
  for (let step = 0; step <= steps; step++) {
    if (step > 0) {
      curves.add({
        type: "step",
        step,
        steps,
        loss: lossAt(step),
        learningRate: 1e-3 * (1 - step / steps),
        gradientNorm: 1 + (step % 7),
        tokensPerSecond: 500,
        tokens: 100,
        seconds: 0.2,
      });
    }
    if (step % evalEvery === 0)
      curves.add({ type: "evaluation", step, loss: 3 - step / steps, perplexity: 20 - step / steps, accuracy: step / steps });
  }
  return curves;
}

const page = (input: Partial<PageInput> = {}): string =>
  reportPage({ config: CONFIG, curves: curvesOf(20, 5), facts: FACTS, now: NOW, ...input });

describe("curves", () => {
  test("few points are all kept; of 100,000 at most 602, with the first, the last and the extremes of each stretch, in order", () => {
    const random = createRandom(3);
    for (const count of [0, 1, 2, 299, 300, 301, 1000, 12_345, 100_000]) {
      const all: Point[] = Array.from({ length: count }, (_, i) => [i + 1, random.normal()]);
      const curve = createCurve();
      for (const [step, value] of all) curve.add(step, value);
      const kept = curve.points();
      if (count <= 300) expect(kept).toEqual(all);
      expect(kept.length).toBeLessThanOrEqual(602);
      if (count === 0) continue;
      expect([kept[0], kept.at(-1)]).toEqual([all[0], all.at(-1)]);
      expect(kept.every(([step], i) => i === 0 || step > kept[i - 1]![0])).toBe(true);
      for (const [step, value] of kept) expect(all[step - 1]![1]).toBe(value);
      const values = (points: readonly Point[]) => points.map(([, value]) => value);
      expect(Math.max(...values(kept))).toBe(Math.max(...values(all)));
      expect(Math.min(...values(kept))).toBe(Math.min(...values(all)));
      // The greatest of a stretch of so many steps is in it too.
      const length = 2 ** Math.ceil(Math.log2(Math.max(1, count / 300)));
      for (let from = 0; from < count; from += 17 * length) {
        const stretch = all.slice(from, from + length);
        const highest = stretch.reduce((most, point) => (point[1] > most[1] ? point : most));
        expect(kept).toContainEqual(highest);
      }
    }
  });

  test("a value that is no number is kept as a gap while points are few, and hides no value in a stretch", () => {
    const curve = createCurve(2);
    for (const [step, value] of [
      [1, 1],
      [2, NaN],
    ] as const)
      curve.add(step, value);
    expect(curve.points()).toEqual([
      [1, 1],
      [2, NaN],
    ]);
    for (const [step, value] of [
      [3, NaN],
      [4, 7],
      [5, 2],
    ] as const)
      curve.add(step, value);
    expect(curve.points()).toEqual([
      [1, 1],
      [4, 7],
      [5, 2],
    ]);
  });

  test("lines of metrics.jsonl become curves; other lines and keys are passed over", () => {
    const curves = curvesOf(20, 5);
    curves.add({ type: "done", step: 99 });
    curves.add({ type: "step" });
    expect(curves.trained("loss")).toHaveLength(20);
    expect(curves.heldOut("perplexity").map(([step]) => step)).toEqual([0, 5, 10, 15, 20]);
    expect(curves.evaluations().map(({ step }) => step)).toEqual([0, 5, 10, 15, 20]);
    expect([curves.step, curves.steps, curves.tokens]).toEqual([20, 20, 2000]);
    expect(curves.seconds).toBeCloseTo(4, 9);
    curves.add({ type: "step", step: 21, loss: 1, gradientNorm: null });
    expect(curves.trained("gradientNorm").at(-1)).toEqual([21, NaN]);
  });

  test("the moving mean is the weighted mean of all losses so far, each a tenth less than the next", () => {
    const curves = curvesOf(50, 100, (step) => Math.sin(step));
    for (const [step, value] of curves.trained(SMOOTHED)) {
      const weights = Array.from({ length: step }, (_, i) => 0.9 ** (step - 1 - i));
      const sum = weights.reduce((total, weight, i) => total + weight * Math.sin(i + 1), 0);
      expect(value).toBeCloseTo(sum / weights.reduce((a, b) => a + b), 12);
    }
  });

  test("of 5,000 evaluations at most 201 are listed, the first and the last among them", () => {
    const rows = curvesOf(5000, 1).evaluations();
    expect(rows.length).toBeLessThanOrEqual(201);
    expect(rows.length).toBeGreaterThan(100);
    expect([rows[0]!.step, rows.at(-1)!.step]).toEqual([0, 5000]);
  });
});

describe("facts", () => {
  test("a page gives back the facts that were put into it", () => {
    const hostile = { ...FACTS, sample: { prompt: "</script><!-- <script>", before: "\u2028", after: "\\" } };
    expect(factsIn(`<p>${factsElement(hostile)}</p>`)).toEqual(hostile);
    expect(factsIn(page({ facts: hostile }))).toEqual(hostile);
  });

  test("what cannot be read is none", () => {
    const whole = factsElement(FACTS);
    expect(factsIn("")).toBeNull();
    expect(factsIn(whole.slice(0, 200))).toBeNull();
    expect(factsIn(whole.replace('"version":1', '"version":2'))).toBeNull();
    expect(factsIn(whole.replace('"peak":772', '"peak":"much"'))).toBeNull();
  });
});

/** Elements of a page with their attributes, as an HTML parser reads them. */
function elementsOf(html: string): { tag: string; attributes: [string, string][] }[] {
  const found: { tag: string; attributes: [string, string][] }[] = [];
  new HTMLRewriter()
    .on("*", {
      element({ tagName, attributes }) {
        found.push({ tag: tagName.toLowerCase(), attributes: [...attributes].map(([name, value]) => [name!, value!]) });
      },
    })
    .transform(html);
  return found;
}

describe("page", () => {
  test("it says what became of the run, shows its curves, memory, samples and settings", () => {
    const html = page();
    for (const text of [
      "Finished after 20 steps",
      "As of 2026-11-29 12:34 UTC",
      ">Perplexity<",
      ">Token accuracy<",
      ">Learning rate<",
      ">Gradient norm<",
      ">Speed<",
      ">Memory of one step<",
      ">resident<",
      ">measured peak<",
      "3.0000 → 2.0000",
      "the prompt",
      "words before",
      "words after",
      "models/tiny",
      "<mark>an answer</mark>",
      "<code>rank</code></th><td>16<",
    ])
      expect(html).toContain(text);
    expect(page({ facts: { ...FACTS, end: { reason: "failed", message: "the loss is NaN", bestStep: null } } })).toContain(
      "Failed after step 20 of 20: the loss is NaN",
    );
    expect(page({ facts: { ...FACTS, end: { reason: "interrupted", message: null, bestStep: null } } })).toContain("--resume");
  });

  test("without facts, and before the first step, it says what is known", () => {
    expect(page({ facts: null })).toContain("Step 20 of 20");
    expect(page({ facts: null })).not.toContain("<script");
    const begun = page({
      curves: createRunCurves(),
      facts: { ...FACTS, end: { ...FACTS.end, reason: "running" }, sample: null },
    });
    expect(begun).toContain("Training has begun");
    expect(begun).toContain("No step is done yet");
  });

  test("it fetches nothing and runs nothing: no address, no source, no script but the facts, which are data", () => {
    const elements = elementsOf(page());
    for (const { tag, attributes } of elements) {
      for (const [name, value] of attributes) {
        expect(["src", "srcset", "action", "data", "poster", "style"]).not.toContain(name);
        expect(name).not.toMatch(/^on/);
        if (name === "href") expect(value).toMatch(/^#/);
        if (name !== "xmlns") expect(value).not.toMatch(/https?:/);
      }
      if (tag === "script") expect(attributes).toContainEqual(["type", "application/json"]);
    }
    expect(elements.filter(({ tag }) => ["link", "iframe", "img", "object", "embed"].includes(tag))).toEqual([]);
    expect(page()).not.toMatch(/@import|url\(/);
  });

  test("texts of a user are texts: names, paths, samples, notes, warnings and errors with markup add no element", () => {
    const hostile = `"'><script>alert(1)</script><img src=x onerror=alert(1)></title></style>--></div>&lt;`;
    const plain = (text: string) => ({
      config: { ...CONFIG, model: text, data: text, output: `runs/${text.replaceAll("/", "")}`, chatTemplate: text, valid: text },
      facts: {
        ...FACTS,
        run: { ...FACTS.run, family: text, device: text, strategy: text, notes: [text], firstExample: [{ text, trained: true }] },
        sample: { prompt: text, before: text, after: text },
        end: { reason: "failed" as const, message: text, bestStep: null },
        warnings: [text],
        memory: { ...FACTS.memory, resident: { ...FACTS.memory.resident, [text]: 5 } },
      },
    });
    const shape = (html: string) =>
      elementsOf(html).map(({ tag, attributes }) => [tag, ...attributes.map(([name]) => name)].join(" "));
    expect(shape(page(plain(hostile)))).toEqual(shape(page(plain("harmless"))));
    expect(page(plain(hostile))).toContain("&lt;img src=x onerror=alert(1)&gt;");
  });

  test("texts of its drawings collide with nothing, in either size", () => {
    for (const curves of [curvesOf(20, 5), curvesOf(1, 1), curvesOf(3000, 10, (step) => 1e-6 * step)]) {
      const drawings = page({ curves }).match(/<svg [^]*?<\/svg>/g)!;
      // Loss and memory in two sizes, two metrics, learning rate, gradient norm, speed.
      expect(drawings).toHaveLength(2 * 2 + 2 + 3);
      for (const svg of drawings) expect(collisions(svg)).toEqual([]);
    }
  });

  test("300 runs of odd values (nothing, zeros, infinities, rounding, one step, metrics of preferences) have pages of whole drawings", () => {
    const random = createRandom(9);
    const values = [0, 1, -1, 1e-30, 1e38, NaN, Infinity, null, 7.62, 7.62 * (1 + 2 ** -52), "text", undefined] as const;
    const value = () => (random.uniform() < 0.3 ? random.normal() : values[random.below(values.length)]);
    for (let round = 0; round < 300; round++) {
      const curves = createRunCurves();
      const steps = random.below(6);
      for (let step = 0; step <= steps; step++) {
        const metrics = Object.fromEntries(
          [...METRICS.keys()].filter(() => random.uniform() < 0.5).map((name) => [name, value()]),
        );
        const common = { step, steps, loss: value(), ...metrics };
        curves.add({ ...common, type: "evaluation" });
        const rates = {
          learningRate: value(),
          gradientNorm: value(),
          tokensPerSecond: value(),
          tokens: value(),
          seconds: value(),
        };
        curves.add({ ...common, ...rates, type: "step" });
      }
      const html = page({ curves });
      for (const svg of html.match(/<svg [^]*?<\/svg>/g)!) {
        expect({ round, found: collisions(svg) }).toEqual({ round, found: [] });
        expect(svg).not.toMatch(/="[^"]*(?:NaN|Infinity|undefined)/);
      }
    }
  });

  test("it stays small: 100,000 steps with 1,000 evaluations in less than 400 KB", () => {
    const random = createRandom(5);
    const html = page({ curves: curvesOf(100_000, 100, () => 3 + random.normal()) });
    expect(html.length).toBeLessThan(400_000);
    expect(html).not.toMatch(/NaN|Infinity|undefined/);
  });

  test("keyboard and screen readers: a language, a way to the content, headings in order, names of drawings and scrolled regions", () => {
    const elements = elementsOf(page());
    const has = (tag: string, name: string, value: string | RegExp) =>
      elements.some(
        (each) => each.tag === tag && each.attributes.some(([key, text]) => key === name && RegExp(value).test(text)),
      );
    expect(has("html", "lang", "en")).toBe(true);
    expect(has("a", "href", "^#content$")).toBe(true);
    expect(has("meta", "name", "viewport")).toBe(true);
    expect(elements.filter(({ tag }) => tag === "h1")).toHaveLength(1);
    const named = elements
      .filter(({ tag }) => tag === "svg")
      .every(({ attributes }) => attributes.some(([name]) => name === "aria-label"));
    expect(named).toBe(true);
    const ids = new Set(
      elements.flatMap(({ attributes }) => attributes.filter(([name]) => name === "id").map(([, value]) => value)),
    );
    for (const { attributes } of elements)
      for (const [name, value] of attributes) if (name === "href") expect(ids).toContain(value.slice(1));
    expect(elements.find(({ attributes }) => attributes.some(([, value]) => value === "region"))?.attributes).toContainEqual([
      "tabindex",
      "0",
    ]);
  });
});
