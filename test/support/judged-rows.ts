export const WORDS = ["king", "house", "water", "tree", "sword", "bread", "stone", "night"];
const MARKS = { good: "fine", bad: "awful", dull: "plain" } as const;
const LABELS = ["good", "bad", "dull"] as const;

/** Returns texts whose label one of their words gives away, of three labels in turn. */
export function judgedRows(count: number) {
  return Array.from({ length: count }, (_, i) => {
    const label = LABELS[i % LABELS.length]!;
    return { text: `the ${WORDS[i % 8]} near the ${WORDS[(i * 5) % 8]} was ${MARKS[label]}`, label };
  });
}
