import { describe, expect, test } from "bun:test";
import { drawing, PAGE, PAPER, type Panel, type Style } from "../../../src/base/charts/drawing.ts";
import { type Chart, lineChart } from "../../../src/base/charts/line-chart.ts";
import { type Axis, scales } from "../../../src/base/charts/scale.ts";
import { escapeMarkup, fitText, textWidth, wrapText } from "../../../src/base/charts/text.ts";
import { formatBytes } from "../../../src/base/bytes.ts";
import { createRandom, type Random } from "../../../src/base/random.ts";
import { type Timeline, timelineChart } from "../../../src/schedule/timeline.ts";

/**
 * Advance widths of U+0020 to U+007E in thousandths of an em, as a browser measures them (canvas, measureText): DejaVu Sans, the widest of the
 * usual interface fonts, in regular and bold, and Liberation Sans, which has Arial's.
 */
const FONTS = {
  dejavu: [
    318, 401, 460, 838, 636, 950, 780, 275, 390, 390, 500, 838, 318, 361, 318, 337, 636, 636, 636, 636, 636, 636, 636, 636, 636,
    636, 337, 337, 838, 838, 838, 531, 1000, 684, 686, 698, 770, 632, 575, 775, 752, 295, 295, 656, 557, 863, 748, 787, 603, 787,
    695, 635, 611, 732, 684, 989, 685, 611, 685, 390, 337, 390, 838, 500, 500, 613, 635, 550, 635, 615, 352, 635, 634, 278, 278,
    579, 278, 974, 634, 612, 635, 635, 411, 521, 392, 634, 592, 818, 592, 592, 525, 636, 337, 636, 838,
  ],
  dejavuBold: [
    348, 456, 521, 838, 696, 1002, 872, 306, 457, 457, 523, 838, 380, 415, 380, 365, 696, 696, 696, 696, 696, 696, 696, 696, 696,
    696, 400, 400, 838, 838, 838, 580, 1000, 774, 762, 734, 830, 683, 683, 821, 837, 372, 372, 775, 637, 995, 837, 850, 733, 850,
    770, 720, 682, 812, 774, 1103, 771, 724, 725, 457, 365, 457, 838, 500, 500, 675, 716, 593, 716, 678, 435, 716, 712, 343, 343,
    665, 343, 1042, 712, 687, 716, 716, 493, 595, 478, 712, 652, 924, 645, 652, 582, 712, 365, 712, 838,
  ],
  liberation: [
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556, 556, 556, 556, 556,
    556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833, 722, 778, 667, 778,
    722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556, 333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222,
    500, 222, 833, 556, 556, 556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584,
  ],
} as const;

/** Width of a text in a font; characters beyond ASCII take an em. */
function measured(text: string, font: keyof typeof FONTS, size: number): number {
  return ([...text].reduce((sum, character) => sum + (FONTS[font][character.codePointAt(0)! - 32] ?? 1000), 0) * size) / 1000;
}

interface Rectangle {
  readonly what: string;
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
}

const unescape = (text: string) =>
  text
    .replaceAll("&lt;", "<")
    .replaceAll("&gt;", ">")
    .replaceAll("&quot;", '"')
    .replaceAll("&#39;", "'")
    .replaceAll("&amp;", "&");

/** What a drawing consists of, read from its SVG. */
function parse(svg: string) {
  const numbers = (tag: string) =>
    Object.fromEntries([...tag.matchAll(/([\w-]+)="([^"]*)"/g)].map(([, name, value]) => [name!, value!]));
  const [, width, height] = /viewBox="0 0 ([\d.]+) ([\d.]+)"/.exec(svg)!;
  const texts = [...svg.matchAll(/<text ([^>]*)>([^<]*)<\/text>/g)].map(([, tag, content]): Rectangle => {
    const { x, y, "text-anchor": anchor, "font-size": size = "12", "font-weight": weight } = numbers(tag!);
    const what = unescape(content!);
    const wide = measured(what, weight === undefined ? "dejavu" : "dejavuBold", Number(size));
    const left = Number(x) - (anchor === "middle" ? wide / 2 : anchor === "end" ? wide : 0);
    return { what, left, right: left + wide, top: Number(y) - 0.78 * Number(size), bottom: Number(y) + 0.24 * Number(size) };
  });
  const box = (tag: string, what: string): Rectangle => {
    const { x, y, width, height } = numbers(tag);
    return { what, left: Number(x), right: Number(x) + Number(width), top: Number(y), bottom: Number(y) + Number(height) };
  };
  const rectangles = [...svg.matchAll(/<rect ([^>]*)\/>/g)].map(([, tag]) => tag!);
  return {
    width: Number(width),
    height: Number(height),
    texts,
    plots: rectangles.filter((tag) => tag.includes('fill="none"')).map((tag) => box(tag, "plot")),
    swatches: rectangles.filter((tag) => /width="12" height="10"/.test(tag)).map((tag) => box(tag, "swatch")),
    places: [
      ...[...svg.matchAll(/<(?:polyline|polygon) points="([^"]*)"/g)].flatMap(([, points]) => points!.split(" ")),
      ...[...svg.matchAll(/<circle cx="([^"]*)" cy="([^"]*)"/g)].map(([, x, y]) => `${x},${y}`),
    ].map((place) => place.split(",").map(Number) as [number, number]),
  };
}

const overlap = (a: Rectangle, b: Rectangle): boolean =>
  Math.min(a.right, b.right) - Math.max(a.left, b.left) > 0.5 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 0.5;

/** What is wrong with a drawing's places, in words. */
function collisions(svg: string): string[] {
  const { width, height, texts, plots, swatches, places } = parse(svg);
  const all = [...texts, ...swatches, ...plots];
  const found: string[] = [];
  all.forEach((a, i) => {
    for (const b of all.slice(i + 1)) if (overlap(a, b)) found.push(`${a.what} and ${b.what}`);
    if (a.left < 0 || a.right > width + 0.01 || a.top < 0 || a.bottom > height + 0.01) found.push(`${a.what} is cut`);
  });
  for (const [x, y] of places) {
    const isInside = plots.some(
      ({ left, right, top, bottom }) => x >= left - 0.01 && x <= right + 0.01 && y >= top - 0.01 && y <= bottom + 0.01,
    );
    if (!isInside) found.push(`a curve leaves its plot at ${x}, ${y}`);
  }
  return found;
}

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
    marks: random.uniform() < 0.2,
    points: Array.from({ length: Math.floor(random.uniform() * 60) }, (_, step): [number, number] => [
      step * pick(random, [1, 1, 1000]) + 1,
      pick(random, [offset + random.uniform() * scale, offset + random.uniform() * scale, offset, NaN]),
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
