import { fill, h } from "../base/dom.ts";
import { formatBytes } from "../base/format.ts";

export interface MemoryPart {
  readonly name: string;
  readonly bytes: number;
  /** The variable of its colour (default: by its place). */
  readonly colour?: string;
}

/** Colours of parts, in their order; the last ones share one. */
const COLOURS = 8;
/** Share of the whole below which a part is not named. */
const LEAST_NAMED = 0.004;

/** A bar of stacked parts with marks to compare them with, and a list that says the same in words. */
export function partsBar(label: string) {
  const stack = h("div", { class: "stack", role: "img", "aria-label": label });
  const list = h("ul", { class: "legend" });
  return {
    element: h("div", {}, stack, list),
    get isEmpty() {
      return stack.childElementCount === 0;
    },
    /** @param whole bytes of the bar's full width (default: the largest sum or mark) */
    show(parts: readonly MemoryPart[], marks: readonly MemoryPart[] = [], whole?: number) {
      const sum = parts.reduce((total, { bytes }) => total + bytes, 0);
      const full = whole ?? Math.max(1, sum, ...marks.map(({ bytes }) => bytes));
      const shown = parts.filter(({ bytes }) => bytes > 0);
      const width = (bytes: number) => `${Math.min(100, (100 * bytes) / full)}%`;
      const colours = shown.map(({ colour }, i) => `var(${colour ?? `--m${Math.min(COLOURS, i + 1)}`})`);
      fill(
        stack,
        ...shown.map(({ name, bytes }, i) =>
          h("i", { style: { width: width(bytes), background: colours[i]! }, title: `${name}: ${formatBytes(bytes)}` }),
        ),
        ...marks.map(({ name, bytes }) =>
          h("b", { class: "mark", style: { left: width(bytes) }, title: `${name}: ${formatBytes(bytes)}` }),
        ),
      );
      const words = [...shown, ...marks].map(({ name, bytes }) => `${name} ${formatBytes(bytes)}`).join(", ");
      stack.setAttribute("aria-label", `${label}: ${words === "" ? "nothing yet" : words}`);
      fill(
        list,
        ...shown.flatMap(({ name, bytes }, i) =>
          bytes < LEAST_NAMED * full
            ? []
            : [
                h(
                  "li",
                  {},
                  h("i", { class: "swatch", style: { background: colours[i]! } }),
                  `${name} `,
                  h("b", {}, formatBytes(bytes)),
                ),
              ],
        ),
      );
    },
  };
}
