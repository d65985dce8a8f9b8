import { undeclaredEnds } from "../../../data/chat/end-of-turn.ts";
import type { MicroBatch } from "../../../data/samples/batch.ts";
import type { Learned } from "../../../hf/weights/model-folder.ts";
import { headBatch } from "../../../load/head-batch.ts";
import { bareOf, classifierOf, familyOf } from "../../../models/families/index.ts";
import { fitTemperature, tempered } from "../../../objectives/calibration.ts";
import { addSums, type LogitsHead, type Sums } from "../../../objectives/objective.ts";
import type { Inputs } from "../session.ts";
import type { Engine } from "../../step/engine.ts";

/** Returns what goes into the files beside the trained weights. */
export function learnedBy({ config, model, tokenizer, classifier, sequenceLength, lowerCase }: Inputs): Learned {
  const { textHead } = model;
  const { outputs: width = 0, dense = [] } = textHead ?? {};
  const pooling = textHead?.pooling;
  const described = { architecture: bareOf(familyOf(model)), hasTemplate: tokenizer.chatTemplates.size > 0, lowerCase };
  return {
    embedder: pooling === undefined ? null : { ...described, pooling, dense, width, maxLength: sequenceLength },
    textHead: classifier && { classifier, architecture: classifier.options ? null : classifierOf(familyOf(model))! },
    stopIds: textHead ? null : undeclaredEnds(model.eosTokenIds, tokenizer),
    chatTemplate: config.chatTemplate === undefined ? null : (tokenizer.chatTemplates.get("default") ?? null),
  };
}

/**
 * The same with the temperature of a classifier, fitted on held-out texts with the weights as they are; as it is where there are none, or no classes.
 * @param tell takes a sentence about it
 */
export function calibrated(inputs: Inputs, engine: Engine, held: readonly MicroBatch[], tell: (text: string) => void): Learned {
  const learned = learnedBy(inputs);
  const { textHead } = learned;
  const head = inputs.objective.head as LogitsHead;
  if (textHead === null || textHead.classifier.kind === "number" || held.length === 0) return learned;
  const { kind, labels } = textHead.classifier;
  const logitsOf = (batch: MicroBatch) => engine.textLogits(headBatch(head, batch, engine.config));
  const judged = held.map((batch) => ({ batch, logits: logitsOf(batch), targets: batch.targets! }));
  const temperature = fitTemperature(judged, kind, labels.length);
  const scores = [1, temperature].map((divisor) => {
    const sums = judged.map(({ batch, logits }) => head.judge(batch, tempered(logits, divisor)).sums);
    return head.values(sums.reduce((all: Sums | null, each) => addSums(all, each), null)!).metrics;
  });
  const change = (name: string) => scores.map((metrics) => metrics[name]!.toFixed(4)).join(" to ");
  const texts = held.reduce((sum, { examples }) => sum + examples, 0);
  const measure = kind === "single" ? `calibration error ${change("ece")}, ` : "";
  tell(`temperature ${temperature.toPrecision(3)}, fitted on ${texts} held-out texts: ${measure}Brier score ${change("brier")}`);
  return { ...learned, textHead: { ...textHead, classifier: { ...textHead.classifier, temperature } } };
}
