/** A line plot with logarithmic axes, as SVG text. */
export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
}

export interface PlotOptions {
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly yFormat: (value: number) => string;
}

const WIDTH = 760;
const HEIGHT = 460;
const MARGIN = { left: 86, right: 150, top: 46, bottom: 54 };
/** Okabe and Ito's palette, told apart by colour-blind readers too. */
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

export function plot(series: readonly Series[], options: PlotOptions): string {
  const points = series.flatMap((line) => line.points);
  const x = logScale(
    points.map(([value]) => value),
    MARGIN.left,
    WIDTH - MARGIN.right,
  );
  const y = logScale(
    points.map(([, value]) => value),
    HEIGHT - MARGIN.bottom,
    MARGIN.top,
  );
  const text = (at: number, top: number, content: string, extra = "") =>
    `<text x="${at.toFixed(1)}" y="${top.toFixed(1)}" ${extra}>${content}</text>`;
  const grid = [
    ...x.ticks.map((tick) => `<path d="M${x.at(tick)} ${MARGIN.top}V${HEIGHT - MARGIN.bottom}"/>`),
    ...y.ticks.map((tick) => `<path d="M${MARGIN.left} ${y.at(tick)}H${WIDTH - MARGIN.right}"/>`),
  ];
  const labels = [
    ...x.ticks.map((tick) => text(x.at(tick), HEIGHT - MARGIN.bottom + 18, String(tick), 'text-anchor="middle"')),
    ...y.ticks.map((tick) => text(MARGIN.left - 8, y.at(tick) + 4, options.yFormat(tick), 'text-anchor="end"')),
  ];
  const lines = series.map((line, i) => {
    const colour = COLOURS[i % COLOURS.length]!;
    const [lastX, lastY] = line.points.at(-1)!;
    const path = line.points.map(([px, py]) => `${x.at(px)},${y.at(py)}`).join(" ");
    const dots = line.points.map(([px, py]) => `<circle cx="${x.at(px)}" cy="${y.at(py)}" r="3" fill="${colour}"/>`).join("");
    return `<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"/>${dots}${text(x.at(lastX) + 9, y.at(lastY) + 4, line.name, `fill="${colour}"`)}`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="13">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="white"/>`,
    text(MARGIN.left, 24, options.title, 'font-size="16" font-weight="bold"'),
    `<g stroke="#ddd">${grid.join("")}</g>`,
    `<g fill="#333">${labels.join("")}</g>`,
    text((MARGIN.left + WIDTH - MARGIN.right) / 2, HEIGHT - 12, options.xLabel, 'text-anchor="middle"'),
    `<text transform="translate(16 ${HEIGHT / 2}) rotate(-90)" text-anchor="middle">${options.yLabel}</text>`,
    ...lines,
    "</svg>",
    "",
  ].join("\n");
}

interface Scale {
  at(value: number): number;
  /** Powers of two within the range, at most eight. */
  readonly ticks: readonly number[];
}

function logScale(values: readonly number[], from: number, to: number): Scale {
  const low = Math.log2(Math.min(...values));
  const high = Math.log2(Math.max(...values));
  const step = Math.max(1, Math.ceil((high - low) / 8));
  const ticks: number[] = [];
  for (let power = Math.ceil(low); power <= high; power += step) ticks.push(2 ** power);
  return {
    ticks,
    at: (value) => Math.round(10 * (from + ((Math.log2(value) - low) / Math.max(1e-9, high - low)) * (to - from))) / 10,
  };
}
