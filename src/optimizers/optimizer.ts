import type { GraphBuilder } from "../graph/builder.ts";
import type { DType } from "../base/dtype.ts";
import { isVectorPart } from "../models/adapters/index.ts";
import type { ParamInfo } from "../runtime/resident.ts";
import type { Hyperparameter, Hyperparameters } from "./hyperparameters.ts";

/**
 * An optimizer is a file in this folder and a row of the table in index.ts. It says which rule updates which parameter; a
 * rule says what state it keeps and what one update computes. Everything else follows from that: the places of state in
 * memory, the forecast, the programs and their calls (plan.ts, train/step/optimizer.ts), and checkpoints.
 */
export interface OptimizerKind {
  /** Peak learning rate where none is asked for. */
  readonly learningRate: number;
  /** The hyperparameters that the optimizer has, and their values where none are asked for. */
  readonly defaults: Partial<Hyperparameters>;
  /** Returns the rule of a trainable parameter, which is one object for all parameters that the rule updates. */
  rules(settings: Hyperparameters): (param: ParamInfo) => UpdateRule;
}

/** Makes a row of the table, whose `rules` reads nothing but hyperparameters that have a default. */
export function defineOptimizer<K extends Hyperparameter>(kind: {
  readonly learningRate: number;
  readonly defaults: Pick<Hyperparameters, K>;
  rules(settings: Pick<Hyperparameters, K>): (param: ParamInfo) => UpdateRule;
}): OptimizerKind {
  return kind;
}

/** Tells whether a parameter is a matrix: neither a norm weight, nor a bias, nor factors of an adapter, whatever their shape. */
export function isMatrix({ name, type }: ParamInfo): boolean {
  return type.shape.length > 1 && !isVectorPart(name);
}

/** How some parameters are updated. */
export interface UpdateRule {
  /** The name of its programs. */
  readonly name: string;
  readonly slots: readonly StateSlot[];
  /**
   * The reach of one call: a run of elements across parameters, each of which begins at a multiple of so many elements
   * (the space between them is 0 everywhere and must stay so), or one matrix.
   */
  readonly reach: { readonly multipleOf: number } | "matrix";
  /** The number of f32 that `hyper` returns. */
  readonly hyperSize: number;
  /** Returns what the rule's programs read as `hyper` in a step. */
  hyper(step: UpdateStep): readonly number[];
  /**
   * Adds one update to a graph with the inputs `param` and `gradient` (f32, both of one shape), `hyper` (f32[hyperSize]) and
   * each slot by its name. Returns the values that become the parameter and the slots, by the same names.
   */
  update(builder: GraphBuilder): Readonly<Record<string, string>>;
}

/** A state that a rule keeps for each of its parameters. */
export interface StateSlot {
  /** The name in checkpoints, where a tensor is called `<slot>/<parameter>`. */
  readonly name: string;
  readonly dtype: DType;
  /** How many values there are: one for each element, each block of so many elements, each row, each column, or the whole matrix. */
  readonly per: "element" | { readonly block: number } | "row" | "column" | "matrix";
  /** The number that all values are before the first step. */
  readonly start: number;
}

/** Describes what is known when a step is to be done. */
export interface UpdateStep {
  /** The number of the update, from 1. */
  readonly count: number;
  readonly learningRate: number;
  /** 0 for vectors, whatever is asked for. */
  readonly weightDecay: number;
  /** The factor of all gradients: it clips, and takes the loss scale out. */
  readonly gradientScale: number;
}
