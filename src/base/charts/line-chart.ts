import { type Box, colourOf, type Frame, layOut, type Panel, px } from "./drawing.ts";
import { type Axis, formatValue, isOn } from "./scale.ts";
import { escapeMarkup } from "./text.ts";

export interface Series {
  readonly name: string;
  /** In the order of x. A y that is no number interrupts the line. */
  readonly points: readonly (readonly [x: number, y: number])[];
  /** Whether points are joined, marked, or both. Joined ones are marked too where a chart has few. */
  readonly shape?: "line" | "points" | "both";
  /** A line behind the others. */
  readonly faint?: boolean;
}

export interface Chart {
  readonly title: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly Series[];
}

/** Points of all series, at most, that are marked besides being joined. */
const MARKED = 24;

/** A line chart with its legend. Values that an axis has no place for, such as 0 on a logarithmic one, are left out. */
export function lineChart({ title, x, y, series }: Chart): Panel {
  const shown = series.map(({ points }) => points.filter((point) => isOn(x, point[0]) && isOn(y, point[1])));
  const all = shown.flat();
  return (top, size, style) => {
    const xs = all.map((point) => point[0]);
    const ys = all.map((point) => point[1]);
    const frame = layOut({ title, x, y, xs, ys, names: series.map(({ name }) => name) }, top, size, style);
    const lines = series.map(({ points, shape = "line", faint = false }, i) => {
      const colour = colourOf(style, i);
      const dots = shown[i]!.map(
        (point) => `<circle cx="${px(frame.x(point[0]))}" cy="${px(frame.y(point[1]))}" r="3" fill="${colour}"/>`,
      ).join("");
      if (shape === "points") return dots;
      const stroke = faint ? 'stroke-width="1" stroke-opacity="0.55"' : 'stroke-width="2" stroke-linejoin="round"';
      const paths = stretches(points, x, y).map((stretch) => {
        const places = stretch.map((point) => `${px(frame.x(point[0]))},${px(frame.y(point[1]))}`).join(" ");
        return `<polyline points="${places}" fill="none" stroke="${colour}" ${stroke}/>`;
      });
      return paths.join("") + (shape === "both" || all.length <= MARKED ? dots : "");
    });
    const bands = style.hover ? hoverBands(frame, { title, x, y, series }, shown) : "";
    return { svg: [frame.svg, ...lines, bands].filter((part) => part !== "").join("\n"), height: frame.height };
  };
}

/** The parts of a line between the points that have no place. */
function stretches(points: Series["points"], x: Axis, y: Axis): Series["points"][] {
  const found: (readonly [number, number])[][] = [[]];
  for (const point of points) {
    if (isOn(x, point[0]) && isOn(y, point[1])) found.at(-1)!.push(point);
    else if (found.at(-1)!.length > 0) found.push([]);
  }
  return found.filter((stretch) => stretch.length > 0);
}

const BANDS = 60;

/** Invisible stripes that say the values in them. */
function hoverBands({ plot, x: place }: Frame, { x, y, series }: Chart, shown: readonly Series["points"][]): string {
  const stripes = stripesOf(plot, BANDS);
  const texts = stripes.map((): string[] => []);
  const begins = new Map<number, number[]>();
  series.forEach(({ name }, i) => {
    const inside = stripes.map((): number[] => []);
    for (const [at, value] of shown[i]!) {
      const stripe = Math.min(BANDS - 1, Math.max(0, Math.floor(((place(at) - plot.left) / plot.width) * BANDS)));
      inside[stripe]!.push(value);
      begins.set(stripe, [...(begins.get(stripe) ?? []), at]);
    }
    inside.forEach((values, stripe) => {
      if (values.length > 0) texts[stripe]!.push(`${name}: ${rangeText(y, values)}`);
    });
  });
  return stripes
    .map((stripe, i) =>
      texts[i]!.length === 0 ? "" : hoverStripe(stripe, [`${x.label} ${rangeText(x, begins.get(i)!)}`, ...texts[i]!]),
    )
    .join("");
}

/** Cuts a box into stripes of one width. */
export function stripesOf({ left, top, width, height }: Box, count: number): Box[] {
  return Array.from({ length: count }, (_, i) => ({ left: left + (width / count) * i, top, width: width / count, height }));
}

/** An invisible box that says `lines` under the pointer. */
export function hoverStripe({ left, top, width, height }: Box, lines: readonly string[]): string {
  return `<rect x="${px(left)}" y="${px(top)}" width="${px(width)}" height="${px(height)}" fill="none" pointer-events="all"><title>${lines.map(escapeMarkup).join("\n")}</title></rect>`;
}

function rangeText(axis: Axis, values: readonly number[]): string {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [first, last] = [formatValue(axis, low), formatValue(axis, high)];
  return first === last ? first : `${first} to ${last}`;
}
