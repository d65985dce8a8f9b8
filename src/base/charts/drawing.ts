/**
 * Drawings as SVG texts, without dependencies and in one look: panels, one below the other. Title, legend and labels have places of their own
 * outside the curves, measured before anything is drawn, so that texts collide with nothing at any size; a panel that needs more room takes it.
 */
import { type Axis, axisLabel, formatValue, type Scale, scales } from "./scale.ts";
import { escapeMarkup, fitText, type Font, textWidth, wrapText } from "./text.ts";

/** Colours are SVG's, or CSS variables of the page that the drawing is in. */
export interface Style {
  /** Null: that of the page. */
  readonly background: string | null;
  readonly ink: string;
  readonly muted: string;
  readonly grid: string;
  readonly frame: string;
  readonly series: readonly string[];
  /** Values are shown under the pointer. */
  readonly hover: boolean;
}

/** A drawing in a file of its own. Series have Okabe and Ito's colours, told apart by colour-blind readers too. */
export const PAPER: Style = {
  background: "#ffffff",
  ink: "#000000",
  muted: "#4d4d4d",
  grid: "#e3e3e3",
  frame: "#888888",
  series: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"],
  hover: false,
};

/** The look of a drawing without a colour of its own for its background: for pages whose CSS has these variables. */
export const PAGE: Style = {
  background: null,
  ink: "var(--ink)",
  muted: "var(--muted)",
  grid: "var(--grid)",
  frame: "var(--frame)",
  series: ["var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)", "var(--c6)", "var(--c7)"],
  hover: true,
};

export interface Box {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

/** A part of a drawing as it was drawn: no lower than it was asked for. */
export interface Drawn {
  readonly svg: string;
  readonly height: number;
}

/** Draws at a height from the top, in pixels, `width` wide and `height` high or higher. */
export type Panel = (top: number, size: { readonly width: number; readonly height: number }, style: Style) => Drawn;

export interface DrawingOptions {
  /** Pixels; of each panel. */
  readonly width?: number;
  readonly height?: number;
  readonly style?: Style;
  /** The drawing in words, for readers who do not see it. */
  readonly label?: string;
}

/** Draws one panel below the other. */
export function drawing(
  panels: readonly Panel[],
  { width: wanted = 760, height = 380, style = PAPER, label }: DrawingOptions = {},
): string {
  const width = Math.max(LEAST_WIDTH, wanted);
  let bottom = 0;
  const body = panels.map((panel) => {
    const drawn = panel(bottom, { width, height }, style);
    bottom += drawn.height;
    return drawn.svg;
  });
  const size = `viewBox="0 0 ${px(width)} ${px(bottom)}" width="${px(width)}" height="${px(bottom)}"`;
  const name = label === undefined ? "" : ` role="img" aria-label="${escapeMarkup(label)}"`;
  const background =
    style.background === null ? "" : `<rect width="${px(width)}" height="${px(bottom)}" fill="${style.background}"/>\n`;
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size}${name} font-family="system-ui, sans-serif" font-size="${FONT.size}" fill="${style.ink}">
${background}${body.join("\n")}
</svg>
`;
}

const FONT: Font = { size: 12 };
const TITLE: Font = { size: 15, bold: true };
/** Pixels from one line to the next. */
const LINE = 17;
const TITLE_LINE = 20;
const MOST_TITLE_LINES = 3;
/** Pixels around a panel, and between its parts. */
const PAD = 12;
const GAP = 8;
const LEAST_WIDTH = 140;
const LEAST_PLOT = 48;
const SWATCH = 12;

export interface FrameOptions {
  readonly title: string;
  readonly x: Axis;
  readonly y: Axis;
  /** Values that the axes hold. */
  readonly xs: readonly number[];
  readonly ys: readonly number[];
  /** Names of what is drawn, in the order of the style's colours; one alone is said by the title. */
  readonly names: readonly string[];
}

/** A panel without its curves: where these go, and everything around them. */
export interface Frame extends Drawn {
  readonly plot: Box;
  /** Pixels of a value. */
  x(value: number): number;
  y(value: number): number;
}

/** Lays out title, legend, axes and the room for curves. */
export function layOut(options: FrameOptions, top: number, size: { width: number; height: number }, style: Style): Frame {
  const { title, names, x, y, xs, ys } = options;
  const width = size.width - 2 * PAD;
  const parts: string[] = [];
  let cursor = top + PAD;
  for (const line of wrapText(title, width, TITLE, MOST_TITLE_LINES)) {
    parts.push(
      `<text x="${PAD}" y="${px(cursor + TITLE.size)}" font-size="${TITLE.size}" font-weight="600">${escapeMarkup(line)}</text>`,
    );
    cursor += TITLE_LINE;
  }
  if (names.length > 1) {
    const legend = legendOf(names, cursor, width, style);
    parts.push(legend.svg);
    cursor += legend.height;
  }
  parts.push(label(fitText(axisLabel(y), width, FONT), PAD, cursor + FONT.size, "start", style));
  cursor += LINE + GAP;
  const below = LINE + LINE + PAD;
  const height = Math.max(LEAST_PLOT, top + size.height - cursor - below);
  const vertical = verticalScale(y, ys, height);
  const marks = vertical.ticks.map((value) => formatValue(y, value));
  const least = PAD + Math.max(0, ...marks.map((mark) => textWidth(mark, FONT))) + GAP;
  const { scale, left, right, shown } = horizontalScale(x, xs, size.width, Math.min(least, size.width - LEAST_PLOT - PAD));
  const plot: Box = { left, top: cursor, width: right - left, height };
  const bottom = cursor + height;
  const at = {
    x: (value: number) => left + scale.at(value) * plot.width,
    y: (value: number) => bottom - vertical.at(value) * height,
  };
  for (const value of scale.ticks) parts.push(rule(at.x(value), at.x(value), cursor, bottom, style.grid));
  for (const value of shown) parts.push(label(formatValue(x, value), at.x(value), bottom + LINE, "middle", style));
  for (const [i, value] of vertical.ticks.entries()) {
    parts.push(rule(left, right, at.y(value), at.y(value), style.grid));
    parts.push(label(fitText(marks[i]!, left - GAP - 2, FONT), left - GAP, at.y(value) + 4, "end", style));
  }
  parts.push(
    `<rect x="${px(left)}" y="${px(cursor)}" width="${px(plot.width)}" height="${px(height)}" fill="none" stroke="${style.frame}"/>`,
  );
  const name = fitText(axisLabel(x), width, FONT);
  const half = textWidth(name, FONT) / 2;
  const middle = Math.min(Math.max(left + plot.width / 2, PAD + half), size.width - PAD - half);
  parts.push(label(name, middle, bottom + LINE + LINE, "middle", style));
  return { svg: parts.join("\n"), height: bottom + below - top, plot, ...at };
}

function label(text: string, x: number, y: number, anchor: "start" | "middle" | "end", { muted }: Style): string {
  const side = anchor === "start" ? "" : ` text-anchor="${anchor}"`;
  return text === "" ? "" : `<text x="${px(x)}" y="${px(y)}"${side} fill="${muted}">${escapeMarkup(text)}</text>`;
}

function rule(x1: number, x2: number, y1: number, y2: number, stroke: string): string {
  return `<line x1="${px(x1)}" x2="${px(x2)}" y1="${px(y1)}" y2="${px(y2)}" stroke="${stroke}"/>`;
}

/** Names beside their colours, in as many rows as they need. */
function legendOf(names: readonly string[], top: number, width: number, style: Style): Drawn {
  const parts: string[] = [];
  let [left, row] = [PAD, 0];
  names.forEach((whole, i) => {
    const name = fitText(whole, width - SWATCH - 6, FONT);
    const wide = SWATCH + 6 + textWidth(name, FONT);
    if (left > PAD && left + wide > PAD + width) {
      left = PAD;
      row++;
    }
    const y = top + LINE * row + FONT.size;
    parts.push(
      `<rect x="${px(left)}" y="${px(y - 10)}" width="${SWATCH}" height="10" fill="${colourOf(style, i)}"/><text x="${px(left + SWATCH + 6)}" y="${px(y)}">${escapeMarkup(name)}</text>`,
    );
    left += wide + 2 * GAP;
  });
  return { svg: parts.join("\n"), height: LINE * (row + 1) + GAP / 2 };
}

export function colourOf({ series }: Style, i: number): string {
  return series[i % series.length]!;
}

const distinct = (axis: Axis, ticks: readonly number[]): boolean =>
  new Set(ticks.map((tick) => formatValue(axis, tick))).size === ticks.length;

/** The scale with most ticks whose labels are apart on an axis of `height` pixels. */
function verticalScale(axis: Axis, values: readonly number[], height: number): Scale {
  let last: Scale | null = null;
  for (const scale of scales(axis, values)) {
    const places = scale.ticks.map((tick) => scale.at(tick) * height);
    const areApart = places.every((place, i) => i === 0 || place - places[i - 1]! >= LINE);
    if (areApart && distinct(axis, scale.ticks)) return scale;
    last = scale;
  }
  return { ...last!, ticks: last!.ticks.slice(0, 1) };
}

/** The scale with most ticks whose labels are apart and within the drawing, and the ends of an axis that has room for the outer ones. */
function horizontalScale(axis: Axis, values: readonly number[], width: number, least: number) {
  const most = width - PAD;
  let sparse: { scale: Scale; left: number; right: number; shown: readonly number[] } | null = null;
  for (const scale of scales(axis, values)) {
    let [left, right] = [least, most];
    const boxes = () =>
      scale.ticks.map((tick) => {
        const middle = left + scale.at(tick) * (right - left);
        const half = textWidth(formatValue(axis, tick), FONT) / 2;
        return { tick, from: middle - half, to: middle + half };
      });
    // A label at an end sticks out by half of its width.
    const out = boxes();
    right -= Math.max(0, ...out.map(({ to }) => to + 2 - width));
    left += Math.max(0, ...out.map(({ from }) => 2 - from));
    const placed = boxes();
    const isInside = placed.every(({ from, to }) => from >= 0 && to <= width);
    const areApart = placed.every(({ from }, i) => i === 0 || from - placed[i - 1]!.to >= GAP);
    if (isInside && areApart && right - left >= LEAST_PLOT && distinct(axis, scale.ticks))
      return { scale, left, right, shown: scale.ticks };
    sparse = { scale, left: least, right: most, shown: [] };
  }
  return sparse!;
}

export const px = (value: number): string => String(Math.round(value * 100) / 100);
