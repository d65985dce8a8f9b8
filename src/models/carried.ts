import type { GraphBuilder } from "../graph/builder.ts";
import type { TensorType } from "../graph/types.ts";

/** Declares what a segment takes of earlier segments and makes for later ones, beside the boundary, and remembers its names in the chain. */
export class CarriedScope {
  /** The segment's own names -> names in the chain. */
  readonly names = new Map<string, string>();
  private readonly made: { readonly name: string; readonly carries: string }[] = [];

  constructor(private readonly builder: GraphBuilder) {}

  /** The value that an earlier segment made under `name`; segments of one graph have the same `own` names. */
  take(own: string, name: string, type: TensorType): string {
    this.names.set(own, name);
    return this.builder.input(own, "carried", type, own);
  }

  /** Makes a value of the graph the chain's `name`. */
  make(own: string, name: string, value: string): void {
    this.names.set(own, name);
    this.made.push({ name: value, carries: own });
  }

  /** Declares what was made, behind the outputs so far. */
  finish(): void {
    for (const output of this.made) this.builder.output({ ...output, role: "carried" });
  }
}
