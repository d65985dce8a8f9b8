/** A number over the steps, which only grows. */
export interface Series {
  readonly length: number;
  readonly steps: Float64Array;
  readonly values: Float64Array;
}

/** A series with room to grow. */
export class GrowingSeries implements Series {
  length = 0;
  steps = new Float64Array(256);
  values = new Float64Array(256);

  /** Steps come in order; a step that is told again, after a job went on from a checkpoint, is the same, and passed over. */
  add(step: number, value: number): void {
    if (this.length > 0 && step <= this.steps[this.length - 1]!) return;
    if (this.length === this.steps.length) {
      const [steps, values] = [new Float64Array(2 * this.length), new Float64Array(2 * this.length)];
      steps.set(this.steps);
      values.set(this.values);
      [this.steps, this.values] = [steps, values];
    }
    this.steps[this.length] = step;
    this.values[this.length++] = value;
  }
}
