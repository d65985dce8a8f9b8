/** The steps that all charts of a job show. */
export interface Zoom {
  /** null: all steps. */
  readonly range: readonly [from: number, to: number] | null;
  set(range: readonly [from: number, to: number] | null): void;
  /** Shows steps further on (1) or back (-1), by a share of what is shown. */
  pan(share: number): void;
  /** Shows `factor` as many steps around a place, a share of the width. */
  scale(factor: number, at?: number): void;
  watch(onChange: () => void): () => void;
}

/** Steps that are shown at least. */
const LEAST = 4;

/** @param all the first and the last step that there is */
export function createZoom(all: () => readonly [from: number, to: number]): Zoom {
  const watchers = new Set<() => void>();
  let range: readonly [number, number] | null = null;
  const set = (wanted: readonly [number, number] | null) => {
    const [first, last] = all();
    if (wanted === null || wanted[1] - wanted[0] >= last - first) range = null;
    else {
      const width = Math.max(LEAST, wanted[1] - wanted[0]);
      const from = Math.min(Math.max(first, wanted[0]), Math.max(first, last - width));
      range = [from, from + width];
    }
    for (const tell of watchers) tell();
  };
  return {
    get range() {
      return range;
    },
    set,
    pan(share) {
      if (range === null) return;
      const by = share * (range[1] - range[0]);
      set([range[0] + by, range[1] + by]);
    },
    scale(factor, at = 0.5) {
      const [from, to] = range ?? all();
      const width = factor * (to - from);
      const fixed = from + at * (to - from);
      set([fixed - at * width, fixed + (1 - at) * width]);
    },
    watch(onChange) {
      watchers.add(onChange);
      return () => void watchers.delete(onChange);
    },
  };
}
