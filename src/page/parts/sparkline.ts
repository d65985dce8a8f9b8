import { request } from "../api/client.ts";
import type { Job } from "../api/types.ts";
import { decimate } from "../charts/decimate.ts";
import { GrowingSeries } from "../charts/series.ts";
import type { Jobs } from "../state/jobs.ts";

/** Units of the drawing. */
const WIDTH = 96;
const HEIGHT = 28;
/** Points of a curve that are asked for, about. */
const POINTS = 200;

const SVG = "http://www.w3.org/2000/svg";

/**
 * A small curve of a job's loss: read when it comes into sight, and drawn on as the job goes on.
 * @param onLoss told the newest loss
 */
export function sparkline(
  jobs: Jobs,
  { id, remat }: Job,
  onLoss: (loss: number) => void,
): { readonly element: Element; close(): void } {
  const element = document.createElementNS(SVG, "svg");
  const line = document.createElementNS(SVG, "polyline");
  element.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  element.setAttribute("class", "sparkline");
  // The loss beside it says the same in a number.
  element.setAttribute("aria-hidden", "true");
  element.append(line);
  const series = new GrowingSeries();
  let frame = 0;
  const draw = () => {
    frame = 0;
    const { length, steps } = series;
    if (length > 0) onLoss(series.values[length - 1]!);
    if (length < 2) return;
    const [from, to] = [steps[0]!, steps[length - 1]!];
    const [at, values] = decimate([series], from, to, WIDTH) as [number[], (number | null)[]];
    const known = values.filter((value) => value !== null);
    const [least, greatest] = [Math.min(...known), Math.max(...known)];
    const x = (step: number) => (WIDTH * (step - from)) / (to - from);
    const y = (value: number) => HEIGHT - 2 - ((HEIGHT - 4) * (value - least)) / (greatest - least || 1);
    const points = values.flatMap((value, i) => (value === null ? [] : [`${x(at[i]!).toFixed(1)},${y(value).toFixed(1)}`]));
    line.setAttribute("points", points.join(" "));
  };
  const changed = () => (frame ||= requestAnimationFrame(draw));
  const load = async () => {
    const every = Math.max(1, Math.ceil(remat.steps / POINTS));
    try {
      const table = await (await request(`v1/fine_tuning/jobs/${id}/metrics?every=${every}`)).text();
      for (const row of table.split("\n").slice(1)) {
        const [step, loss = ""] = row.split(",");
        if (loss !== "") series.add(Number(step), Number(loss));
      }
      changed();
    } catch {
      // The connection's sign tells that the server is away.
    }
  };
  const sight = new IntersectionObserver((entries) => {
    if (!entries.at(-1)!.isIntersecting) return;
    sight.disconnect();
    void load();
  });
  sight.observe(element);
  const unwatch = jobs.watchEvents(id, ({ data }) => {
    const loss = data?.["train_loss"];
    if (typeof loss !== "number" || series.length === 0) return;
    series.add(Number(data!["step"]), loss);
    changed();
  });
  return {
    element,
    close() {
      sight.disconnect();
      unwatch();
      cancelAnimationFrame(frame);
    },
  };
}
