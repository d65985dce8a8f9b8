import { describe, expect, test } from "bun:test";
import { drawing, PAGE, PAPER, type Panel, type Style } from "../../../src/base/charts/drawing.ts";
import { type Chart, lineChart } from "../../../src/base/charts/line-chart.ts";
import { type Axis, scales } from "../../../src/base/charts/scale.ts";
import { escapeMarkup, fitText, textWidth, wrapText } from "../../../src/base/charts/text.ts";
import { formatBytes } from "../../../src/base/bytes.ts";
import { createRandom, type Random } from "../../../src/base/random.ts";
import { type Timeline, timelineChart } from "../../../src/schedule/timeline.ts";
import { collisions, measured, parse } from "../../support/drawings.ts";

const pick = <T>(random: Random, values: readonly T[]): T => values[Math.floor(random.uniform() * values.length)]!;

const WORDS = [
  "loss",
  "WWWWWWWW",
  "held-out perplexity",
  "iiiiii",
  "100 %",
  "損失の推移",
  "a<b>&c",
  "",
  "gradient norm of everything that is trained",
];

function randomAxis(random: Random): Axis {
  return {
    label: pick(random, WORDS),
    ...pick<Partial<Axis>>(random, [
      {},
      { log: 2 },
      { log: 10 },
      { fromData: true },
      { fromData: true, tight: true },
      { tight: true, whole: true },
      { unit: "bytes", format: formatBytes },
      { unit: 0.01, format: (share) => `${Math.round(100 * share)} %` },
      { format: (value) => `${value} units of something` },
    ]),
  };
}

function randomChart(random: Random): Chart {
  const scale = 10 ** (random.uniform() * 16 - 6);
  const offset = pick(random, [0, 0, scale, -scale, 1000 * scale]);
  const series = Array.from({ length: Math.floor(random.uniform() * 9) }, (_, i) => ({
    name: `${pick(random, WORDS)} ${i}`,
    shape: pick(random, ["line", "line", "points", "both"] as const),
    points: Array.from({ length: Math.floor(random.uniform() * 60) }, (_, step): [number, number] => [
      step * pick(random, [1, 1, 1000]) + 1,
      pick(random, [
        offset + random.uniform() * scale,
        offset + random.uniform() * scale,
        offset,
        offset * (1 + random.uniform() * 1e-15),
        NaN,
      ]),
    ]),
  }));
  return {
    title: Array.from({ length: 1 + random.uniform() * 9 }, () => pick(random, WORDS)).join(" "),
    x: randomAxis(random),
    y: randomAxis(random),
    series,
  };
}

function randomTimeline(random: Random): Panel {
  const count = Math.floor(random.uniform() * 40);
  const slots = Array.from({ length: count }, (_, i) => ({
    start: i / count,
    end: (i + 1) / count,
    bytes: Array.from({ length: 4 }, () => Math.floor(random.uniform() * 2 ** (random.uniform() * 34))),
  }));
  const moves = count > 3 && random.uniform() < 0.5 ? [{ direction: "out" as const, start: 0.1, end: 0.4 }] : [];
  const timeline: Timeline = { slots, moves };
  return timelineChart(timeline, {
    title: "Memory of one step",
    format: formatBytes,
    ...(random.uniform() < 0.5 && {
      beneath: { name: "weights, adapters, optimizer", bytes: Math.floor(random.uniform() * 1e9) },
    }),
    ...(random.uniform() < 0.5 && { line: { name: "measured peak", bytes: Math.floor(random.uniform() * 1e9) } }),
  });
}

describe("texts of drawings collide with nothing", () => {
  test("1,500 random drawings of any size: no text over another, the legend, a plot or an edge; no curve outside", () => {
    const random = createRandom(11);
    for (let round = 0; round < 1500; round++) {
      const panels = Array.from({ length: 1 + random.uniform() * 2 }, () =>
        random.uniform() < 0.25 ? randomTimeline(random) : lineChart(randomChart(random)),
      );
      const width = Math.round(20 + 1200 * random.uniform() ** 2);
      const height = Math.round(20 + 700 * random.uniform() ** 2);
      const svg = drawing(panels, { width, height });
      expect({ round, width, height, found: collisions(svg) }).toEqual({ round, width, height, found: [] });
      expect(svg).not.toMatch(/NaN|Infinity|undefined/);
    }
  });

  test("collisions are found where there are some", () => {
    const svg = drawing([
      lineChart({ title: "t", x: { label: "x" }, y: { label: "y" }, series: [{ name: "one", points: [[1, 1]] }] }),
    ]);
    expect(collisions(svg)).toEqual([]);
    const moved = svg.replace(/(<text x=")[\d.]+(" y=")[\d.]+("[^>]*>y<)/, "$1400$2200$3");
    expect(collisions(moved)).toEqual(["y and plot"]);
    expect(collisions(svg.replace(/(<text x=")[\d.]+("[^>]*>t<)/, "$1755$2"))).toEqual(["t is cut"]);
    expect(collisions(svg.replace(/cx="[\d.]+"/, 'cx="5"'))).toHaveLength(1);
  });

  test("a legend of 40 names makes the drawing higher", () => {
    const series = Array.from({ length: 40 }, (_, i) => ({
      name: `series number ${i}`,
      points: [[0, i] as const, [1, i] as const],
    }));
    const svg = drawing([lineChart({ title: "many", x: { label: "x" }, y: { label: "y" }, series })], {
      width: 300,
      height: 100,
    });
    expect(parse(svg).swatches).toHaveLength(40);
    expect(parse(svg).height).toBeGreaterThan(400);
    expect(collisions(svg)).toEqual([]);
  });
});

describe("text", () => {
  test("the estimate of a width is at least what three fonts need, for each character, and at most double", () => {
    for (let code = 32; code < 127; code++) {
      const character = String.fromCharCode(code);
      for (const font of ["dejavu", "liberation"] as const)
        expect(textWidth(character, { size: 1000 })).toBeGreaterThanOrEqual(measured(character, font, 1000) - 15);
      expect(textWidth(character, { size: 1000, bold: true })).toBeGreaterThanOrEqual(measured(character, "dejavuBold", 1000));
      expect(textWidth(character, { size: 1000 })).toBeLessThanOrEqual(
        2 * Math.max(measured(character, "dejavu", 1000), measured(character, "liberation", 1000)),
      );
    }
  });

  test("texts are cut with an ellipsis and wrapped between words", () => {
    const font = { size: 10 };
    expect(fitText("short", 100, font)).toBe("short");
    expect(fitText("a text that is too long", 60, font)).toMatch(/^a text.*…$/);
    expect(textWidth(fitText("x".repeat(500), 60, font), font)).toBeLessThanOrEqual(60);
    expect(fitText("wide", 2, font)).toBe("");
    expect(wrapText("one two three four", 60, font, 2)).toEqual(["one two", "three four"]);
    expect(wrapText("one two three four five six seven", 60, font, 2)).toEqual(["one two", expect.stringMatching(/^three.*…$/)]);
    expect(wrapText("  ", 60, font, 2)).toEqual([]);
  });

  test("markup in names is text, and characters that XML does not have are replaced", () => {
    const hostile = `</text><script>alert("1")</script>'&\u0000\u001b[31m\ud800`;
    expect(escapeMarkup(hostile)).toBe(
      "&lt;/text&gt;&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&#39;&amp;\ufffd\ufffd[31m\ufffd",
    );
    const styles: readonly Style[] = [PAPER, PAGE];
    for (const style of styles) {
      const chart = lineChart({
        title: hostile,
        x: { label: hostile },
        y: { label: hostile, format: () => hostile },
        series: [
          { name: hostile, points: [[0, 1]] },
          { name: hostile, points: [[0, 2]] },
        ],
      });
      const svg = drawing([chart], { style, label: hostile });
      expect(svg).not.toContain("<script");
      expect([...svg].every((character) => character === "\n" || character >= " ")).toBe(true);
    }
  });
});

describe("scales", () => {
  const first = (axis: Partial<Axis>, values: readonly number[]) => [...scales({ label: "", ...axis }, values)][0]!;

  test("linear ticks are round, and hold all values between them", () => {
    const scale = first({}, [0.13, 0.87]);
    expect(scale.ticks[0]).toBe(0);
    expect(scale.ticks.at(-1)).toBeCloseTo(1, 12);
    expect(first({ fromData: true }, [3.14, 3.86]).ticks[0]).toBeCloseTo(3, 12);
    expect(first({ whole: true, tight: true, fromData: true }, [1, 3]).ticks).toEqual([1, 2, 3]);
  });

  test("values that differ by rounding alone are one value, with ticks around it", () => {
    for (const value of [7.62, 1e-9, 1e30, -3, 0.1 + 0.2]) {
      for (const axis of [{}, { fromData: true }, { fromData: true, tight: true }, { log: 10 }]) {
        for (const scale of scales({ label: "", ...axis }, [value, value * (1 + 2 ** -52), value * (1 - 2 ** -53)])) {
          expect(scale.ticks.length).toBeLessThan(20);
          if (value > 0) expect(scale.at(value)).toBeWithin(0, 1.001);
        }
      }
    }
  });

  test("bytes have ticks at multiples of 1024", () => {
    expect(first({ unit: "bytes" }, [0, 3 * 2 ** 30]).ticks.map(formatBytes)).toEqual([
      "0 B",
      "512 MiB",
      "1.00 GiB",
      "1.50 GiB",
      "2.00 GiB",
      "2.50 GiB",
      "3.00 GiB",
    ]);
  });

  test("a logarithmic axis of less than two powers has ticks all the same", () => {
    expect(first({ log: 10 }, [2, 7]).ticks).toEqual([2, 3, 4, 5, 6, 7]);
    expect(first({ log: 2 }, [4, 1000]).ticks).toEqual([4, 8, 16, 32, 64, 128, 256, 512, 1024]);
  });
});

test("a log axis says so, values without a place are left out, and gaps interrupt a line", () => {
  const points = [
    [1, 1],
    [2, NaN],
    [3, 0],
    [4, 10],
    [5, 100],
  ] as const;
  const svg = drawing([
    lineChart({ title: "t", x: { label: "step" }, y: { label: "norm", log: 10 }, series: [{ name: "norm", points }] }),
  ]);
  expect(svg).toContain(">norm (log scale)<");
  const lines = [...svg.matchAll(/<polyline points="([^"]*)"/g)].map(([, places]) => places!.split(" ").length);
  expect(lines).toEqual([1, 2]);
});

test("values are shown under the pointer in stripes that hold each point once", () => {
  const points = Array.from({ length: 500 }, (_, i) => [i + 1, i] as const);
  const svg = drawing(
    [lineChart({ title: "t", x: { label: "step" }, y: { label: "loss" }, series: [{ name: "a & b", points }] })],
    {
      style: PAGE,
    },
  );
  const titles = [...svg.matchAll(/<title>([^<]*)<\/title>/g)].map(([, text]) => text!);
  expect(titles).toHaveLength(60);
  expect(titles[0]).toMatch(/^step 1 to \d\na &amp; b: 0 to \d$/);
});
