/** Reads drawings back from their SVG, and says what collides in them. */

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
export function measured(text: string, font: keyof typeof FONTS, size: number): number {
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
export function parse(svg: string) {
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
export function collisions(svg: string): string[] {
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
