import { h } from "../base/dom.ts";

let probe: HTMLElement | null = null;

/** The colour that a variable of the style sheet has at the moment, for what is drawn on a canvas. */
export function colourOf(variable: string): string {
  if (probe === null) document.body.append((probe = h("span", { hidden: true })));
  probe.style.color = `var(${variable})`;
  return getComputedStyle(probe).color;
}

/** Variables of the colours that tell jobs apart, in their order. */
export const SERIES_COLOURS = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6"] as const;
