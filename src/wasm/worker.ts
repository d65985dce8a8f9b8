/** A kernel thread: instantiates the kernels on the shared memory and works until the executor closes. */
import { type Boot, instantiateKernels } from "./instance.ts";

declare const self: Worker;

self.onmessage = ({ data }: MessageEvent<Boot>) => {
  const kernels = instantiateKernels(data);
  self.postMessage("ready");
  try {
    kernels.work(data.control);
  } catch (error) {
    kernels.fail();
    throw error;
  }
  process.exit();
};
