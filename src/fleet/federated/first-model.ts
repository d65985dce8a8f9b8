import { UserError } from "../../base/errors.ts";
import { writeChecksums } from "../../base/files/checksums.ts";
import { writeAdapter } from "../../hf/peft/peft.ts";
import { fileShape, firstValues } from "../../load/adapter.ts";
import type { OpenModel } from "../../load/open-model.ts";
import { adapterKind, isAdapterPart } from "../../models/adapters/index.ts";
import { buildSegments } from "../../models/chain/segments.ts";
import { collectParams, type ParamInfo } from "../../runtime/resident.ts";
import type { TrainConfig } from "../../train/config.ts";
import { adapterConfigOf } from "../../train/run/export/export.ts";
import { RUN_FILES } from "../../train/run/folder.ts";
import { tuningOf } from "../../train/step/tuning.ts";
import { type Layout, layoutOf, valuesOf } from "./updates/layout.ts";

/** What a coordinator knows of a model: neither its weights nor an executor are needed. */
export interface FirstModel {
  readonly layout: Layout;
  /** First values of all that is learned. */
  begin(): Float32Array<ArrayBuffer>;
  /** Writes an adapter folder. @throws {UserError} */
  write(folder: string, model: Float32Array<ArrayBuffer>): void;
}

/** Returns the parameters that are learned, in one order on all machines. */
export const layoutOfParams = (params: readonly ParamInfo[]): Layout =>
  layoutOf(params.filter(({ trainable }) => trainable).map((param) => ({ name: param.name, shape: fileShape(param) })));

/** @throws {UserError} settings that do not fit the model, or methods whose updates have no mean */
export function firstModel(config: TrainConfig, { config: model, source }: Pick<OpenModel, "config" | "source">): FirstModel {
  expectAverageable(config);
  const tuning = tuningOf(config, model, source);
  const params = collectParams(buildSegments(model, { tokens: 8, tuning, weightType: () => "f32" }));
  const layout = layoutOfParams(params);
  const byName = new Map(params.map((param) => [param.name, param]));
  const first = (name: string) => firstValues({ source, config: model, tuning }, byName.get(name)!, config.seed)!;
  return {
    layout,
    begin() {
      const vector = new Float32Array(layout.size);
      for (const part of layout.parts) valuesOf(vector, part).set(first(part.name));
      return vector;
    },
    write(folder, vector) {
      const described = adapterConfigOf({ resident: { params }, config: model, tuning }, config);
      const learned = new Map(layout.parts.map((part) => [part.name, part]));
      const tensors = params
        .filter((param) => param.trainable || isAdapterPart(param))
        .map((param) => {
          const part = learned.get(param.name);
          const data = () => (part ? valuesOf(vector, part) : first(param.name));
          return { name: param.name, dtype: "f32" as const, shape: fileShape(param), data };
        });
      writeAdapter(folder, { ...described, tensors });
      writeChecksums(folder, [RUN_FILES.adapterConfig, RUN_FILES.adapter]);
    },
  };
}

/** @throws {UserError} */
function expectAverageable({ method, objective }: TrainConfig): void {
  if (objective !== "next-token") throw new UserError(`a federation learns next tokens; got --objective ${objective}`);
  if (method === "full")
    throw new UserError("a federation trains adapters, whose updates are small; got --method full, which trains all weights");
  const kind = adapterKind(method);
  if (kind.computed)
    throw new UserError(
      `--method ${method}: the mean of ${kind.title}'s parameters is not the mean of what nodes have learned; choose --method lora or ia3`,
    );
}

/** Tells whether the mean of the parameters is the mean of what nodes have learned: where what is learned is linear in the parameters. */
export function isMeanExact(config: TrainConfig): boolean {
  return config.method !== "lora" || config.freezeA === true;
}
