/** What the numbers of a tensor in a GGUF file are of those of the model: so much more, or the negated exponential. Plain data, for any thread. */
export type Change = { readonly kind: "add"; readonly by: number } | { readonly kind: "negated exp" };

/** Makes a model's numbers those of the file, in their place. */
export function change(values: Float32Array, made: Change): void {
  if (made.kind === "add") for (let i = 0; i < values.length; i++) values[i]! += made.by;
  else for (let i = 0; i < values.length; i++) values[i] = -Math.exp(values[i]!);
}

/** The other way round; rounded to f32, as the file's numbers were before. */
export function undo(values: Float32Array, made: Change): void {
  if (made.kind === "add") for (let i = 0; i < values.length; i++) values[i]! -= made.by;
  else for (let i = 0; i < values.length; i++) values[i] = Math.log(-values[i]!);
}
