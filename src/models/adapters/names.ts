/** The begin of the names of all parameters of an adapter, in PEFT's files and here. */
const PREFIX = "base_model.model.";

/** Name of a module's part: `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`. */
export const partName = (module: string, suffix: string): string => `${PREFIX}${module}.${suffix}`;

/** Between the name of an adapted module and that of a parameter of its own. */
const BASE_LAYER = ".base_layer";

/** Name of a parameter of the base model that is trained whole. In PEFT an adapted layer holds its own as its base layer's. */
export function wholeName(parameter: string, isAdapted: boolean): string {
  const at = parameter.lastIndexOf(".");
  return PREFIX + parameter.slice(0, at) + (isAdapted ? BASE_LAYER : "") + parameter.slice(at);
}

/** Tells whether a parameter is one of an adapter, or trained whole beside adapters; all others are the base model's. */
export function isAdapter({ name }: { readonly name: string }): boolean {
  return name.startsWith(PREFIX);
}

/** A name of PEFT's without what all begin with; null: it does not begin so. */
export function withoutPrefix(name: string): string | null {
  return name.startsWith(PREFIX) ? name.slice(PREFIX.length) : null;
}

/** The name of a parameter in PEFT's file of an adapter for the model without a head. @param modulePrefix what the names of the whole model's modules begin with */
export function bareName(name: string, modulePrefix: string): string {
  return name.startsWith(PREFIX + modulePrefix) ? PREFIX + name.slice(PREFIX.length + modulePrefix.length) : name;
}

/** Returns what a name without the prefix means: a parameter, and whether it is held as that of a base layer. */
export function parameterOf(name: string): { readonly parameter: string; readonly inBaseLayer: boolean } {
  const at = name.lastIndexOf(".");
  const module = name.slice(0, at);
  const inBaseLayer = module.endsWith(BASE_LAYER);
  return { parameter: (inBaseLayer ? module.slice(0, -BASE_LAYER.length) : module) + name.slice(at), inBaseLayer };
}
