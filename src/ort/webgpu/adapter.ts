import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { dlopen, type Pointer, ptr, read } from "bun:ffi";

/** Describes the adapter that WebGPU computes on. */
export interface Adapter {
  readonly name: string;
  /** True if it is the processor that computes, by software. */
  readonly isSoftware: boolean;
}

/** Devices of graphics drivers on Linux: of all drivers in the kernel, of NVIDIA's, of Windows below it. */
const NODES: readonly string[] = ["/dev/nvidia0", "/dev/dxg"];
const RENDERERS = "/dev/dri";

/** True if the machine may have an adapter that is no software. It looks for files alone: no driver is loaded. */
export function mayHaveAdapter(): boolean {
  if (process.platform === "darwin") return process.arch === "arm64";
  if (process.platform !== "linux") return false;
  try {
    if (readdirSync(RENDERERS).some((name) => name.startsWith("renderD"))) return true;
  } catch {
    // There is no such folder.
  }
  return NODES.some((node) => existsSync(node));
}

/** Where Vulkan's loader looks for drivers, as far as systems' packages put them there. */
const DRIVER_FOLDERS: readonly string[] = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];

/** Files that describe the drivers of this system. */
export function driverFiles(): string[] {
  return DRIVER_FOLDERS.flatMap((folder) => {
    try {
      return readdirSync(folder)
        .sort()
        .map((name) => join(folder, name));
    } catch {
      return [];
    }
  });
}

/**
 * The adapter that WebGPU takes; null where nobody can tell. On Linux Vulkan says it, whose drivers may crash: to be called
 * in a process that may.
 */
export function findAdapter(): Adapter | null {
  if (process.platform === "darwin" && process.arch === "arm64") return { name: "Apple's", isSoftware: false };
  return process.platform === "linux" ? bestOf(vulkanAdapters()) : null;
}

/** The adapter that WebGPU prefers: any before software. */
export function bestOf(adapters: readonly Adapter[]): Adapter | null {
  return adapters.find(({ isSoftware }) => !isSoftware) ?? adapters[0] ?? null;
}

/** VkInstanceCreateInfo: bytes, and its type's number in front, VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO. */
const CREATE_INFO = { bytes: 64, type: 1 };
/** VkPhysicalDeviceProperties: bytes, and where the kind of a device and its name are in it. */
const PROPERTIES = { bytes: 824, kind: 16, name: 20, nameBytes: 256 };
/** VK_PHYSICAL_DEVICE_TYPE_CPU */
const SOFTWARE = 4;

function vulkanAdapters(): Adapter[] {
  let vulkan: ReturnType<typeof openVulkan>;
  try {
    vulkan = openVulkan();
  } catch {
    // Without a loader there is no WebGPU either.
    return [];
  }
  const { vkCreateInstance, vkDestroyInstance, vkEnumeratePhysicalDevices, vkGetPhysicalDeviceProperties } = vulkan;
  const info = new Uint8Array(CREATE_INFO.bytes);
  info[0] = CREATE_INFO.type;
  const out = new BigUint64Array(1);
  if (vkCreateInstance(info, null, out) !== 0) return [];
  const instance = Number(out[0]) as Pointer;
  try {
    const count = new Uint32Array(1);
    if (vkEnumeratePhysicalDevices(instance, count, null) !== 0) return [];
    const devices = new BigUint64Array(Math.max(1, count[0]!));
    if (vkEnumeratePhysicalDevices(instance, count, devices) !== 0) return [];
    return Array.from(devices.subarray(0, count[0]), (device) => {
      const properties = new Uint8Array(PROPERTIES.bytes);
      vkGetPhysicalDeviceProperties(Number(device) as Pointer, properties);
      const name = properties.subarray(PROPERTIES.name, PROPERTIES.name + PROPERTIES.nameBytes);
      return {
        name: new TextDecoder().decode(name.subarray(0, name.indexOf(0))),
        isSoftware: read.u32(ptr(properties), PROPERTIES.kind) === SOFTWARE,
      };
    });
  } finally {
    vkDestroyInstance(instance, null);
  }
}

const openVulkan = () =>
  dlopen("libvulkan.so.1", {
    vkCreateInstance: { args: ["ptr", "ptr", "ptr"], returns: "i32" },
    vkDestroyInstance: { args: ["ptr", "ptr"], returns: "void" },
    vkEnumeratePhysicalDevices: { args: ["ptr", "ptr", "ptr"], returns: "i32" },
    vkGetPhysicalDeviceProperties: { args: ["ptr", "ptr"], returns: "void" },
  }).symbols;
